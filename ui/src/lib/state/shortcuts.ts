import { selectThread } from '$lib/chat/selection';
import { commandKey, editHistory, fieldOf } from '$lib/keys';
import { conversation } from './conversation.svelte';
import { router } from './route.svelte';
import { toasts } from './toasts.svelte';
import { view } from './view.svelte';
import { zoom } from './zoom.svelte';

/** What Escape closes first. */
const OVERLAYS = '[role=dialog], [role=alertdialog], [role=menu], [role=listbox]';

/** Only there do the keys of the history do nothing by themselves. */
const isWebKitGtk = /Linux|X11/.test(navigator.userAgent);

type Shortcut = (event: KeyboardEvent) => boolean | void;

function newChat(): void {
  (document.activeElement as HTMLElement | null)?.blur();
  router.chat(null);
  view.focusComposer();
}

function toggleSidebar(): void {
  view.toggleSidebar();
  void view.catchFocus();
}

/** What is being written has an undo of its own, and comes first. */
function undo({ target }: KeyboardEvent): boolean {
  const field = fieldOf(target);
  if (field === null) return toasts.undo();
  if (editHistory('undo')) return true;
  return field.value === '' && toasts.undo();
}

function redo({ target }: KeyboardEvent): boolean {
  if (fieldOf(target) === null || !isWebKitGtk) return false;
  editHistory('redo');
  return true;
}

/** In a field, all of the field; elsewhere all of the chat, rather than the window with its buttons. */
function selectAll({ target }: KeyboardEvent): boolean {
  if (fieldOf(target) !== null) return false;
  if (document.querySelector(OVERLAYS) === null) selectThread();
  return true;
}

/** With Ctrl, by the key and whether Shift is held. Those that return false leave the key to others. */
const SHORTCUTS: Record<string, Shortcut> = {
  k: () => view.focusSearch(),
  'shift o': newChat,
  ',': () => router.go({ name: 'settings' }),
  '.': () => view.togglePane(),
  b: toggleSidebar,
  a: selectAll,
  z: undo,
  'shift z': redo,
  y: redo,
  '0': () => zoom.reset(),
  '+': () => zoom.step(1),
  '=': () => zoom.step(1),
  '-': () => zoom.step(-1)
};

/** Signs, and digits on some keyboards, need Shift on one and none on another. */
const shortcutOf = (key: string, isShifted: boolean): Shortcut | undefined =>
  SHORTCUTS[isShifted && /^\p{L}$/u.test(key) ? `shift ${key}` : key];

/** The window's shortcuts. What was open over the page when the key went down has it first. */
export class Shortcuts {
  #isOverlaid = false;

  /** Before anybody acts on the key: what lies over the page is gone by the time a key comes back up from it. */
  before(): void {
    this.#isOverlaid = document.querySelector(OVERLAYS) !== null;
  }

  act(event: KeyboardEvent): void {
    if (event.key === 'Escape') return this.#escape(event);
    const key = commandKey(event);
    const shortcut = key === null ? undefined : shortcutOf(key, event.shiftKey);
    if (shortcut && shortcut(event) !== false) event.preventDefault();
  }

  /** Stops the answer, unless it is for a field: there it means what was typed. */
  #escape(event: KeyboardEvent): void {
    if (event.defaultPrevented || this.#isOverlaid || conversation.generation === null) return;
    const { name } = router.current;
    if (name !== 'chat' && name !== 'experts') return;
    const field = fieldOf(event.target);
    if (field !== null && field !== view.composer) return;
    event.preventDefault();
    void conversation.stop();
  }
}
