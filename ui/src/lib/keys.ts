/**
 * Whether an input method uses the key: while a word is composed, and for the key that ends the composition, which
 * WebKit sends after it with the code of such keys alone.
 */
export const isForInputMethod = (event: KeyboardEvent): boolean => event.isComposing || event.keyCode === 229;

/**
 * Keeps the keys of input methods from every handler of the page, those of libraries included. The fields get them all
 * the same. To be called before anything else listens to `target`.
 */
export function guardInputMethods(target: EventTarget): () => void {
  const guard = (event: Event) => {
    if (event instanceof KeyboardEvent && isForInputMethod(event)) event.stopImmediatePropagation();
  };
  const types = ['keydown', 'keyup'];
  for (const type of types) target.addEventListener(type, guard, { capture: true });
  return () => types.forEach((type) => target.removeEventListener(type, guard, { capture: true }));
}

/** What the keys of shortcuts give on a US keyboard, for layouts that have no Latin letters. */
const BY_CODE: Record<string, string> = { Comma: ',', Period: '.', Minus: '-', Equal: '=', Slash: '/' };

function fromCode(code: string): string {
  return /^(?:Key|Digit)(.)$/.exec(code)?.[1]?.toLowerCase() ?? BY_CODE[code] ?? '';
}

/** What a key means in a shortcut: what is printed on it, or where it is if that is in no Latin script. */
export function shortcutKey({ key, code }: Pick<KeyboardEvent, 'key' | 'code'>): string {
  if (/^[!-~]$/.test(key)) return key.toLowerCase();
  // French and Czech keyboards have letters where the digits are.
  if (/^\p{Script=Latin}$/u.test(key) && !code.startsWith('Digit')) return key.toLowerCase();
  const isCharacter = [...key].length === 1 || key === 'Dead' || key === 'Unidentified';
  return isCharacter ? fromCode(code) : key;
}

/** The key of a shortcut with Ctrl (Cmd on a Mac), else null. AltGr, which types characters, is Ctrl and Alt together. */
export function commandKey(event: KeyboardEvent): string | null {
  if (!event.ctrlKey && !event.metaKey) return null;
  if (event.altKey || event.getModifierState('AltGraph')) return null;
  return shortcutKey(event);
}

const NOT_TYPED_IN = 'button checkbox color file image radio range reset submit'.split(' ');

/** The field that is typed in, if `target` is one. */
export function fieldOf(target: EventTarget | null): HTMLInputElement | HTMLTextAreaElement | null {
  if (target instanceof HTMLTextAreaElement) return target;
  return target instanceof HTMLInputElement && !NOT_TYPED_IN.includes(target.type) ? target : null;
}

/** Steps of a history that change nothing: of a field that the page has emptied since. */
const MAX_EMPTY_STEPS = 100;

const typed = (): string => [...document.querySelectorAll<HTMLInputElement>('input, textarea')].map(({ value }) => value).join('\0');

/** Undoes or redoes what was typed; whether there was anything. */
export function editHistory(command: 'undo' | 'redo'): boolean {
  const before = typed();
  for (let step = 0; step < MAX_EMPTY_STEPS; step++) {
    // The only way to the history of a field that a page has; WebKitGTK binds no keys to it.
    if (!document.execCommand(command)) return false;
    if (typed() !== before) return true;
  }
  return false;
}
