import { indexTree } from '../../chat/tree';
import type { AnswerStats, Chat, ChatPage, ChatSummary, ChatsChanged, Deletion, DeletionId, Edit, Message, SearchHit } from '../bindings';
import { refused } from './failures';
import type { Options } from './options';
import { seeded } from './random';
import { BORROW_ANSWER, EXPERTS_ANSWER, INDEX_ANSWER, OLBERS_ANSWER, SAMPLE_CHATS } from './texts';

const HOUR = 3_600_000;
const KEPT_MS = 30 * 24 * HOUR;

let lastId = 0;
export const newId = (): string => `0193${(++lastId).toString(16).padStart(8, '0')}`;

export const STATS: AnswerStats = {
  newTokens: 148,
  tokensPerSec: 14.2,
  timeToFirstTokenMs: 812,
  hitRate: 0.81,
  stopReason: 'eos',
  promptTokens: 212,
  reusedTokens: 164,
  seed: '3992435054',
  scope: 'whole'
};

export function message(parent: Message | null, role: Message['role'], text: string, at: number): Message {
  return {
    id: newId(),
    parentId: parent?.id ?? null,
    role,
    text,
    createdAt: at,
    state: 'complete',
    stats: role === 'assistant' ? STATS : null,
    model: role === 'assistant' ? 'Mixtral 8x7B Instruct' : null,
    error: null
  };
}

/** Chats in memory, with the same answers as the real store. */
export class FakeChats {
  readonly #chats = new Map<string, Chat>();
  readonly #deleted = new Map<string, { chat: Chat; at: number }>();
  readonly #cut = new Map<string, { chat: Chat; messages: Message[]; gone: Message[]; activeLeaf: string | null; at: number }>();
  readonly #drafts = new Map<string, string>();
  readonly #edits = new Map<string, string>();
  /** By message, when it was the end of the active branch last. */
  readonly #shown = new Map<string, number>();
  #shows = 0;
  readonly #listeners = new Set<(change: ChatsChanged) => void>();

  constructor(options: Options) {
    if (options.isFirstStart) return;
    for (const sample of SAMPLE_CHATS.slice(0, options.chats)) {
      this.#addTurns(sample.title, Date.now() - sample.daysAgo * 24 * HOUR - this.#chats.size * 60_000, sample.turns, sample.isPinned);
    }
    this.#addMany(options.chats);
    if (options.messages > 0) this.#addLong(options.messages);
    const first = this.#chats.values().next().value;
    if (first) this.#branch(first);
  }

  listen(on: (change: ChatsChanged) => void): () => void {
    this.#listeners.add(on);
    return () => this.#listeners.delete(on);
  }

  get(id: string): Chat {
    const chat = this.#chats.get(id);
    if (!chat) throw refused('notStored');
    return chat;
  }

  holding(messageId: string): Chat {
    for (const chat of this.#chats.values()) if (chat.messages.some((one) => one.id === messageId)) return chat;
    throw refused('notStored');
  }

  create(title = ''): Chat {
    const now = Date.now();
    const chat: Chat = {
      id: newId(),
      title,
      model: null,
      systemPrompt: null,
      pinned: false,
      createdAt: now,
      updatedAt: now,
      messages: [],
      activeLeaf: null
    };
    this.#chats.set(chat.id, chat);
    this.changed(chat.id);
    return chat;
  }

  changed(chatId: string | null): void {
    for (const on of this.#listeners) on({ chatId });
  }

  put(chat: Chat, one: Message): void {
    const index = chat.messages.findIndex((known) => known.id === one.id);
    if (index < 0) chat.messages.push(one);
    else chat.messages[index] = one;
    chat.updatedAt = Date.now();
  }

  summary = (chat: Chat): ChatSummary => ({
    id: chat.id,
    title: chat.title,
    pinned: chat.pinned,
    createdAt: chat.createdAt,
    updatedAt: chat.updatedAt,
    messageCount: chat.messages.length,
    preview: chat.messages.at(-1)?.text.slice(0, 120) ?? ''
  });

  list(before: string | null, limit: number): ChatPage {
    const all = [...this.#chats.values()].sort(
      (a, b) => Number(b.pinned) - Number(a.pinned) || b.updatedAt - a.updatedAt || (a.id < b.id ? 1 : -1)
    );
    const start = before === null ? 0 : Number(before);
    const chats = all.slice(start, start + limit).map(this.summary);
    return { chats, next: start + limit < all.length ? String(start + limit) : null };
  }

  update(id: string, change: Partial<Pick<Chat, 'title' | 'pinned' | 'activeLeaf'>>): void {
    Object.assign(this.get(id), change);
    this.changed(id);
  }

  setLeaf(chat: Chat, leaf: string | null): void {
    chat.activeLeaf = leaf;
    if (leaf !== null) this.#shown.set(leaf, ++this.#shows);
  }

  showBranch(chatId: string, messageId: string): string {
    const chat = this.get(chatId);
    const leaf = this.#leafBelow(chat, messageId);
    if (leaf === null) throw refused('notStored');
    this.setLeaf(chat, leaf);
    return leaf;
  }

  /** Of the leaves below `id` the one that was shown last, else the newest. */
  #leafBelow(chat: Chat, id: string | null): string | null {
    const { byId, children } = indexTree(chat.messages);
    const found: string[] = [];
    const visit = (at: string): void => {
      const below = children.get(at) ?? [];
      if (below.length === 0) found.push(at);
      for (const child of below) visit(child.id);
    };
    if (id === null) for (const root of children.get(null) ?? []) visit(root.id);
    else if (byId.has(id)) visit(id);
    const shown = (one: string) => this.#shown.get(one) ?? -1;
    return found.reduce<string | null>((best, one) => (best === null || shown(one) >= shown(best) ? one : best), null);
  }

  remove(id: string): void {
    this.#deleted.set(id, { chat: this.get(id), at: Date.now() });
    this.#chats.delete(id);
    this.changed(id);
  }

  deletions(limit: number): Deletion[] {
    const described = (id: DeletionId, title: string, messages: Message[], at: number): Deletion => ({
      id,
      title,
      preview: messages[0]?.text.slice(0, 140) ?? '',
      messageCount: messages.length,
      deletedAt: at,
      expiresAt: at + KEPT_MS
    });
    const chats = [...this.#deleted].map(([id, { chat, at }]) => described({ type: 'chat', id }, chat.title, chat.messages, at));
    const cuts = [...this.#cut]
      .filter(([, { chat }]) => this.#chats.has(chat.id))
      .map(([token, { chat, gone, at }]) => described({ type: 'messages', token }, chat.title, gone, at));
    return [...chats, ...cuts].sort((a, b) => b.deletedAt - a.deletedAt).slice(0, limit);
  }

  restore(deletion: DeletionId): string {
    if (deletion.type === 'messages') return this.#restoreMessages(deletion.token);
    const { id } = deletion;
    const deleted = this.#deleted.get(id);
    if (!deleted) throw refused('notStored');
    this.#chats.set(id, deleted.chat);
    this.#deleted.delete(id);
    this.changed(id);
    return id;
  }

  deleteForGood(deletion: DeletionId): void {
    const isGone = deletion.type === 'chat' ? this.#deleted.delete(deletion.id) : this.#deleteCut(deletion.token);
    if (!isGone) throw refused('notStored');
    if (deletion.type === 'messages') return;
    for (const [token, { chat }] of this.#cut) if (chat.id === deletion.id) this.#cut.delete(token);
  }

  /** With what was deleted from below it before. */
  #deleteCut(token: string): boolean {
    const cut = this.#cut.get(token);
    if (!cut) return false;
    this.#cut.delete(token);
    for (const [other, { gone }] of this.#cut) if (cut.gone.some(({ id }) => id === gone[0]?.parentId)) this.#deleteCut(other);
    return true;
  }

  emptyTrash(): void {
    this.#deleted.clear();
    this.#cut.clear();
  }

  removeMessage(id: string): string {
    const chat = this.holding(id);
    const gone = new Set([id]);
    for (const one of chat.messages) if (one.parentId !== null && gone.has(one.parentId)) gone.add(one.id);
    const token = newId();
    const isGone = (one: Message) => gone.has(one.id);
    this.#cut.set(token, {
      chat,
      messages: chat.messages,
      gone: chat.messages.filter(isGone),
      activeLeaf: chat.activeLeaf,
      at: Date.now()
    });
    const parentId = chat.messages.find((one) => one.id === id)?.parentId ?? null;
    chat.messages = chat.messages.filter((one) => !isGone(one));
    if (chat.activeLeaf !== null && gone.has(chat.activeLeaf)) this.setLeaf(chat, this.#leafBelow(chat, parentId));
    this.changed(chat.id);
    return token;
  }

  #restoreMessages(token: string): string {
    const cut = this.#cut.get(token);
    if (!cut) throw refused('notStored');
    this.#cut.delete(token);
    const since = cut.chat.messages.filter(({ id }) => !cut.messages.some((one) => one.id === id));
    cut.chat.messages = [...cut.messages, ...since];
    this.setLeaf(cut.chat, cut.activeLeaf);
    this.changed(cut.chat.id);
    return cut.chat.id;
  }

  edits(chatId: string): Edit[] {
    return this.get(chatId).messages.flatMap(({ id }) => {
      const text = this.#edits.get(id);
      return text === undefined ? [] : [{ messageId: id, text }];
    });
  }

  setEdit(messageId: string, text: string | null): void {
    if (text === null) this.#edits.delete(messageId);
    else this.#edits.set(messageId, text);
  }

  /** As if `message` and what it answers had not been written. */
  withdraw(chat: Chat, ids: readonly string[], activeLeaf: string | null): void {
    chat.messages = chat.messages.filter((one) => !ids.includes(one.id));
    this.setLeaf(chat, activeLeaf);
    this.changed(chat.id);
  }

  draft(chatId: string | null): string {
    return this.#drafts.get(chatId ?? '') ?? '';
  }

  setDraft(chatId: string | null, text: string): void {
    this.#drafts.set(chatId ?? '', text);
  }

  search(query: string, limit: number): SearchHit[] {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const hits: SearchHit[] = [];
    for (const chat of this.#chats.values()) {
      for (const one of chat.messages) {
        if (hits.length >= limit) return hits;
        const text = one.text.toLowerCase();
        if (words.length === 0 || !words.every((word) => text.includes(word))) continue;
        hits.push({
          chatId: chat.id,
          messageId: one.id,
          title: chat.title,
          snippet: snippet(one.text, words),
          role: one.role,
          at: one.createdAt
        });
      }
    }
    return hits;
  }

  #addTurns(title: string, at: number, turns: readonly string[], isPinned = false): Chat {
    const chat: Chat = {
      id: newId(),
      title,
      model: null,
      systemPrompt: null,
      pinned: isPinned,
      createdAt: at,
      updatedAt: at,
      messages: [],
      activeLeaf: null
    };
    let parent: Message | null = null;
    turns.forEach((text, turn) => {
      parent = message(parent, turn % 2 === 0 ? 'user' : 'assistant', text, at + turn * 1000);
      chat.messages.push(parent);
    });
    this.setLeaf(chat, chat.messages.at(-1)?.id ?? null);
    this.#chats.set(chat.id, chat);
    return chat;
  }

  #addMany(count: number): void {
    const random = seeded(7);
    const subjects = ['Sorting', 'Parsing', 'Gardens', 'Harbours', 'Matrices', 'Recipes', 'Verbs', 'Clocks'];
    const about = ['in winter', 'for beginners', 'by hand', 'in C', 'explained', 'without tools', 'at sea'];
    for (let n = this.#chats.size; n < count; n++) {
      const title = `${subjects[Math.floor(random() * subjects.length)]} ${about[Math.floor(random() * about.length)]}, ${n}`;
      this.#addTurns(title, Date.now() - n * 2 * HOUR, [`Tell me about ${title}`, `Here is what I know about ${title}.`]);
    }
  }

  #addLong(count: number): void {
    const answers = [BORROW_ANSWER, OLBERS_ANSWER, INDEX_ANSWER, EXPERTS_ANSWER];
    const turns = Array.from({ length: count }, (_, n) =>
      n % 2 === 0 ? `Question ${n / 2 + 1} of this long chat` : (answers[((n - 1) / 2) % answers.length] ?? '')
    );
    this.#addTurns('A long chat', Date.now() + 60_000, turns);
  }

  /** A second answer beside the first chat's last one, and one that was cut short. */
  #branch(chat: Chat): void {
    const question = chat.messages[2];
    const last = chat.messages[3];
    if (!question || !last) return;
    const other = message(question, 'assistant', 'With an index, the list does not', last.createdAt - 500);
    chat.messages.push({ ...other, state: 'interrupted', stats: null });
  }
}

function snippet(text: string, words: string[]): SearchHit['snippet'] {
  const lower = text.toLowerCase();
  const at = Math.max(0, Math.min(...words.map((word) => lower.indexOf(word))) - 24);
  const cut = text.slice(at, at + 90).replaceAll('\n', ' ');
  const matches = words.flatMap((word): [number, number][] => {
    const start = cut.toLowerCase().indexOf(word);
    return start < 0 ? [] : [[start, start + word.length]];
  });
  return { text: cut, matches };
}
