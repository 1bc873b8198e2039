import { isOpenable } from './markdown/render';

export type Entry = 'openLink' | 'copyLink' | 'cut' | 'copy' | 'paste' | 'selectAll' | 'copyCode' | 'copyMessage';

/** What a context menu is about: where it was asked for, and what was selected there. */
export interface Place {
  link: string | null;
  field: HTMLInputElement | HTMLTextAreaElement | null;
  code: HTMLElement | null;
  /** The message's id. */
  message: string | null;
  /** What "Select all" selects, outside a field. */
  text: Element | null;
  selected: string;
}

const TEXT_FIELDS =
  'textarea, input:is([type=text], [type=search], [type=url], [type=email], [type=tel], [type=password], [type=number], :not([type]))';

export function placeOf(target: Element, selection: Selection | null): Place {
  const href = target.closest('a[href]')?.getAttribute('href') ?? '';
  const field = target.closest<HTMLInputElement | HTMLTextAreaElement>(TEXT_FIELDS);
  const article = target.closest('article');
  return {
    link: isOpenable(href) ? href : null,
    field,
    code: target.closest('.code')?.querySelector('code') ?? null,
    message: article?.closest<HTMLElement>('[data-message]')?.dataset.message ?? null,
    text: article?.querySelector('.markdown, .bubble') ?? null,
    selected: field ? selectedIn(field) : (selection?.toString() ?? '')
  };
}

/** Fields of numbers have no selection that can be asked for; a password is not to be copied. */
function selectedIn(field: HTMLInputElement | HTMLTextAreaElement): string {
  if (field.type === 'password') return '';
  return field.value.slice(field.selectionStart ?? 0, field.selectionEnd ?? 0);
}

/** Groups of entries that make sense there. */
export function entriesFor({ link, field, code, message, text, selected }: Place): Entry[][] {
  const editing: Entry[] = [];
  const canWrite = field !== null && !field.readOnly && !field.disabled;
  if (canWrite && selected !== '') editing.push('cut');
  if (selected !== '') editing.push('copy');
  if (canWrite) editing.push('paste');
  if (field ? field.value !== '' : text !== null) editing.push('selectAll');
  const whole: Entry[] = [];
  if (code) whole.push('copyCode');
  if (message !== null && field === null) whole.push('copyMessage');
  const links: Entry[] = link === null ? [] : ['openLink', 'copyLink'];
  return [links, editing, whole].filter((group) => group.length > 0);
}
