import { t } from './i18n/index.svelte';
import { announcer } from './state/announcer.svelte';
import { toasts } from './state/toasts.svelte';

/** Copies a text and says whether it is copied. */
export async function copyAndTell(text: string): Promise<boolean> {
  try {
    await copyText(text);
  } catch {
    toasts.show(t('common.notCopied'), { tone: 'bad' });
    return false;
  }
  announcer.say(t('common.copied'));
  return true;
}

/**
 * Copies a text. WebKit allows it only in the press of a button itself, so a text that has yet to come is promised
 * then, and not waited for.
 */
export async function copyText(text: string | Promise<string>): Promise<void> {
  if (typeof text === 'string') return navigator.clipboard.writeText(text);
  const blob = text.then((value) => new Blob([value], { type: 'text/plain' }));
  // A failure is told by the write; nobody else waits for this one.
  blob.catch(() => undefined);
  await navigator.clipboard.write([new ClipboardItem({ 'text/plain': blob })]);
}
