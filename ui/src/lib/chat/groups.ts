import type { ChatSummary } from '$lib/backend';

export type GroupName = 'pinned' | 'today' | 'yesterday' | 'week' | 'month' | { year: number; month: number };

export type ListRow = { type: 'heading'; key: string; group: GroupName } | { type: 'chat'; key: string; chat: ChatSummary };

/** Midnight `days` days before `now`, by the calendar of the machine: days differ in length. */
function midnight(now: Date, days: number): number {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() - days).getTime();
}

export function groupOf(chat: Pick<ChatSummary, 'pinned' | 'updatedAt'>, now: Date): GroupName {
  if (chat.pinned) return 'pinned';
  if (chat.updatedAt >= midnight(now, 0)) return 'today';
  if (chat.updatedAt >= midnight(now, 1)) return 'yesterday';
  if (chat.updatedAt >= midnight(now, 7)) return 'week';
  if (chat.updatedAt >= midnight(now, 30)) return 'month';
  const date = new Date(chat.updatedAt);
  return { year: date.getFullYear(), month: date.getMonth() };
}

const keyOf = (group: GroupName): string => (typeof group === 'string' ? group : `${group.year}-${group.month}`);

/** Chats, pinned first and then newest first, with a heading before each group. */
export function listRows(chats: readonly ChatSummary[], now: Date): ListRow[] {
  const rows: ListRow[] = [];
  let last = '';
  for (const chat of chats) {
    const group = groupOf(chat, now);
    const key = keyOf(group);
    if (key !== last) rows.push({ type: 'heading', key: `group ${key}`, group });
    last = key;
    rows.push({ type: 'chat', key: chat.id, chat });
  }
  return rows;
}
