import { SvelteMap } from 'svelte/reactivity';
import { backend, type Message } from '$lib/backend';
import { Keeper } from './unsaved';

/** Messages of the open chat that are being edited, with what their fields say. Survives switching chats and a restart. */
class Edits {
  readonly texts = new SvelteMap<string, string>();
  /** The field that was just opened, to be written in. */
  opened: string | null = null;
  readonly #keepers = new Map<string, Keeper>();
  readonly #latest = new Map<string, string | null>();
  #opens = 0;
  #chatId: string | null = null;

  /** Shows those of another chat. */
  async show(chatId: string | null): Promise<void> {
    const open = ++this.#opens;
    this.#chatId = chatId;
    this.texts.clear();
    this.opened = null;
    // What was typed a moment ago may be on its way.
    await Promise.all([...this.#keepers.values()].map((keeper) => keeper.flush()));
    const edits = chatId === null ? [] : await backend.getEdits(chatId).catch(() => []);
    if (open !== this.#opens) return;
    for (const { messageId, text } of edits) if (!this.texts.has(messageId)) this.texts.set(messageId, text);
  }

  begin(message: Message): void {
    this.opened = message.id;
    if (!this.texts.has(message.id)) this.texts.set(message.id, message.text);
  }

  type(messageId: string, text: string): void {
    this.texts.set(messageId, text);
    this.#keep(messageId, text);
  }

  /** It was sent and not taken. */
  restore(chatId: string, messageId: string, text: string): void {
    if (chatId === this.#chatId) this.texts.set(messageId, text);
    this.#keep(messageId, text);
  }

  /** Sent or given up. */
  end(messageId: string): void {
    this.texts.delete(messageId);
    void this.#keep(messageId, null).flush();
  }

  #keep(messageId: string, text: string | null): Keeper {
    this.#latest.set(messageId, text);
    const take = () => {
      const latest = this.#latest.get(messageId) ?? null;
      return () => backend.setEdit(messageId, latest);
    };
    const keeper = this.#keepers.get(messageId) ?? new Keeper(take);
    this.#keepers.set(messageId, keeper);
    keeper.changed();
    return keeper;
  }
}

export const edits = new Edits();
