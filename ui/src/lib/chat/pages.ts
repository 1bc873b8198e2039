import type { ChatPage, ChatSummary } from '$lib/backend';

const order = (a: ChatSummary, b: ChatSummary): number =>
  Number(b.pinned) - Number(a.pinned) || b.updatedAt - a.updatedAt || (a.id < b.id ? 1 : -1);

/**
 * Puts a fresh first page in front of what is already listed. What lay within the page's reach and is not on it
 * any more is gone; what lies behind it stays.
 */
export function withFirstPage(listed: readonly ChatSummary[], page: ChatPage): ChatSummary[] {
  const last = page.chats.at(-1);
  if (page.next === null || !last) return page.chats;
  const fresh = new Set(page.chats.map((chat) => chat.id));
  const behind = listed.filter((chat) => !fresh.has(chat.id) && order(last, chat) < 0);
  return [...page.chats, ...behind];
}

/** A further page; a chat that moved meanwhile is kept where it was listed first. */
export function withNextPage(listed: readonly ChatSummary[], page: ChatPage): ChatSummary[] {
  const known = new Set(listed.map((chat) => chat.id));
  return [...listed, ...page.chats.filter((chat) => !known.has(chat.id))];
}
