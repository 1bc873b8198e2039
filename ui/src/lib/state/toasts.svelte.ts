import type { ApiError, DeletionId } from '$lib/backend';
import { errorWords } from '$lib/errors';

/** A deletion that can be undone: of a chat or in one, or of a preset, by its name. */
export type Undoable = { deletion: DeletionId; chatId: string } | { preset: string };

interface Action {
  label: string;
  run: () => void;
  /** What it undoes, where it does. */
  undoes?: Undoable;
  /** The chat or model it leads to: without that, there is nothing to do. */
  target?: string;
}

export interface Toast {
  id: number;
  text: string;
  /** What happened, what the system or a parser says about it in English, and what to do then. */
  reason: string | null;
  detail: string | null;
  advice: string | null;
  tone: 'plain' | 'bad';
  action: Action | null;
}

const SHOWN_MS = 8_000;
/** There is something to decide. */
const UNDO_MS = 20_000;

/** More would cover the chat. */
const SHOWN = 3;

class Toasts {
  list = $state.raw<Toast[]>([]);
  /** Those on screen; the others wait until there is room. */
  readonly shown: Toast[] = $derived(this.list.slice(-SHOWN));
  #lastId = 0;
  #timers = new Map<number, ReturnType<typeof setTimeout>>();

  show(text: string, options: Partial<Omit<Toast, 'id' | 'text'>> = {}): void {
    const toast: Toast = { id: ++this.#lastId, text, reason: null, detail: null, advice: null, tone: 'plain', action: null, ...options };
    // What only tells something gives way; an error or a way back stays until it was seen.
    const isKept = (one: Toast, index: number) => one.tone === 'bad' || one.action !== null || index > this.list.length - SHOWN;
    for (const { id } of this.list.filter((one, index) => !isKept(one, index))) this.dismiss(id);
    this.list = [...this.list, toast];
    this.#watchClocks();
  }

  /** With what can be done about it, and what it is about where that is not plain; stays until it is put away. */
  fail(error: ApiError, about?: string): void {
    const { title, text, detail, next } = errorWords(error);
    this.show(about === undefined ? title : `${about}: ${title}`, { tone: 'bad', reason: text, detail, advice: next });
  }

  /** Takes back what the newest toast offers to; whether one did. */
  undo(): boolean {
    const toast = this.list.findLast(({ action }) => action?.undoes);
    if (!toast) return false;
    this.act(toast);
    return true;
  }

  act({ id, action }: Toast): void {
    this.dismiss(id);
    action?.run();
  }

  /** Someone who reads it or is on the way to its button is not hurried. */
  hold(id: number): void {
    clearTimeout(this.#timers.get(id));
  }

  resume(id: number): void {
    this.hold(id);
    const toast = this.list.find((one) => one.id === id);
    if (!toast || toast.tone === 'bad') return;
    this.#timers.set(
      id,
      setTimeout(() => this.dismiss(id), toast.action?.undoes ? UNDO_MS : SHOWN_MS)
    );
  }

  dismiss(id: number): void {
    this.hold(id);
    this.#timers.delete(id);
    this.list = this.list.filter((toast) => toast.id !== id);
    this.#watchClocks();
  }

  /** Puts away every toast whose action can no longer be done. */
  drop(isGone: (action: Action) => boolean): void {
    for (const { id, action } of this.list) if (action && isGone(action)) this.dismiss(id);
  }

  /** Time passes only for what is on screen: each gets all of its own. */
  #watchClocks(): void {
    const shown = new Set(this.list.slice(-SHOWN).map(({ id }) => id));
    for (const { id } of this.list) {
      if (!shown.has(id)) {
        this.hold(id);
        this.#timers.delete(id);
      } else if (!this.#timers.has(id)) {
        this.resume(id);
      }
    }
  }
}

export const toasts = new Toasts();
