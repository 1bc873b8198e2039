import type { ModelEntry } from '$lib/backend';
import { t } from '$lib/i18n/index.svelte';

/** What the demo model was taught to answer. It was taught in English, and understands no other language. */
const DEMO_QUESTIONS = [
  'What is Octet?',
  'How do experts and offloading work?',
  'What do temperature and top-p do?',
  'How do I download the full model?'
];

export interface Suggestions {
  questions: string[];
  /** Of the questions, where it is not that of the window. */
  language: string | undefined;
}

/** Questions to begin with, such as `model` can answer. */
export function suggestionsFor(model: Pick<ModelEntry, 'kind'>): Suggestions {
  if (model.kind === 'demo') return { questions: DEMO_QUESTIONS, language: 'en' };
  return { questions: [t('ask.explain'), t('ask.write'), t('ask.code'), t('ask.plan')], language: undefined };
}
