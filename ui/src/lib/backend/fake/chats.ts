import type { AnswerStats, Chat, ChatPage, ChatSummary, ChatsChanged, Message, SearchHit } from '../bindings';
import { apiError, type Options } from './options';
import { seeded } from './random';
import { BORROW_ANSWER, EXPERTS_ANSWER, INDEX_ANSWER, OLBERS_ANSWER, SAMPLE_CHATS } from './texts';

const HOUR = 3_600_000;

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
  readonly #deleted = new Map<string, Chat>();
  readonly #cut = new Map<string, { chat: Chat; messages: Message[]; activeLeaf: string | null }>();
  readonly #drafts = new Map<string, string>();
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
    if (!chat) throw apiError('notFound');
    return chat;
  }

  holding(messageId: string): Chat {
    for (const chat of this.#chats.values()) if (chat.messages.some((one) => one.id === messageId)) return chat;
    throw apiError('notFound');
  }

  create(title = ''): Chat {
    const now = Date.now();
    const chat: Chat = { id: newId(), title, model: null, systemPrompt: null, pinned: false, createdAt: now, updatedAt: now, messages: [], activeLeaf: null };
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

  remove(id: string): void {
    this.#deleted.set(id, this.get(id));
    this.#chats.delete(id);
    this.changed(id);
  }

  restore(id: string): void {
    const chat = this.#deleted.get(id);
    if (chat) this.#chats.set(id, chat);
    this.changed(id);
  }

  removeMessage(id: string): string {
    const chat = this.holding(id);
    const gone = new Set([id]);
    for (const one of chat.messages) if (one.parentId !== null && gone.has(one.parentId)) gone.add(one.id);
    const token = newId();
    this.#cut.set(token, { chat, messages: chat.messages, activeLeaf: chat.activeLeaf });
    const parentId = chat.messages.find((one) => one.id === id)?.parentId ?? null;
    chat.messages = chat.messages.filter((one) => !gone.has(one.id));
    if (chat.activeLeaf !== null && gone.has(chat.activeLeaf)) chat.activeLeaf = parentId;
    this.changed(chat.id);
    return token;
  }

  undoRemoveMessage(token: string): void {
    const cut = this.#cut.get(token);
    if (!cut) throw apiError('notFound');
    cut.chat.messages = cut.messages;
    cut.chat.activeLeaf = cut.activeLeaf;
    this.changed(cut.chat.id);
  }

  /** As if `message` and what it answers had not been written. */
  withdraw(chat: Chat, ids: readonly string[], activeLeaf: string | null): void {
    chat.messages = chat.messages.filter((one) => !ids.includes(one.id));
    chat.activeLeaf = activeLeaf;
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
        hits.push({ chatId: chat.id, messageId: one.id, title: chat.title, snippet: snippet(one.text, words), role: one.role, at: one.createdAt });
      }
    }
    return hits;
  }

  #addTurns(title: string, at: number, turns: readonly string[], isPinned = false): Chat {
    const chat: Chat = { id: newId(), title, model: null, systemPrompt: null, pinned: isPinned, createdAt: at, updatedAt: at, messages: [], activeLeaf: null };
    let parent: Message | null = null;
    turns.forEach((text, turn) => {
      parent = message(parent, turn % 2 === 0 ? 'user' : 'assistant', text, at + turn * 1000);
      chat.messages.push(parent);
    });
    chat.activeLeaf = chat.messages.at(-1)?.id ?? null;
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
