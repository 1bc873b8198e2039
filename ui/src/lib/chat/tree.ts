import type { Message } from '$lib/backend';

/** Messages by id and by parent, siblings in the order in which they were written. */
export interface MessageTree {
  byId: Map<string, Message>;
  children: Map<string | null, Message[]>;
}

export function indexTree(messages: readonly Message[]): MessageTree {
  const byId = new Map<string, Message>();
  const children = new Map<string | null, Message[]>();
  for (const message of messages) byId.set(message.id, message);
  for (const message of messages) {
    // A parent that is gone would hide its whole branch; it becomes a root instead.
    const parent = message.parentId !== null && byId.has(message.parentId) ? message.parentId : null;
    const siblings = children.get(parent);
    if (siblings) siblings.push(message);
    else children.set(parent, [message]);
  }
  for (const siblings of children.values()) siblings.sort(byAge);
  return { byId, children };
}

/** Ids are version 7 UUIDs: they settle the order within a millisecond. */
function byAge(a: Message, b: Message): number {
  return a.createdAt - b.createdAt || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
}

/**
 * From the first message to `leaf`, and on to the newest that follows it: nothing may lie behind the end of the path.
 * Without a leaf that exists: the newest branch.
 */
export function activePath(tree: MessageTree, leaf: string | null): Message[] {
  let at = newestLeaf(tree, leaf !== null && tree.byId.has(leaf) ? leaf : null);
  const path: Message[] = [];
  const seen = new Set<string>();
  while (at && !seen.has(at.id)) {
    seen.add(at.id);
    path.push(at);
    at = at.parentId === null ? undefined : tree.byId.get(at.parentId);
  }
  return path.reverse();
}

/** Follows the newest child from `id` (null: from the top) down to a message without children. */
export function newestLeaf(tree: MessageTree, id: string | null): Message | undefined {
  let at = id === null ? undefined : tree.byId.get(id);
  const seen = new Set<string>();
  for (;;) {
    const next: Message | undefined = tree.children.get(at?.id ?? null)?.at(-1);
    if (!next || seen.has(next.id)) return at;
    seen.add(next.id);
    at = next;
  }
}

export interface Branch {
  /** Counted from 1. */
  position: number;
  count: number;
  previous: string | null;
  next: string | null;
}

/** Where `message` stands among its siblings; null when it has none. */
export function branchOf(tree: MessageTree, message: Message): Branch | null {
  const parent = message.parentId !== null && tree.byId.has(message.parentId) ? message.parentId : null;
  const siblings = tree.children.get(parent) ?? [];
  if (siblings.length < 2) return null;
  const index = siblings.findIndex((sibling) => sibling.id === message.id);
  return {
    position: index + 1,
    count: siblings.length,
    previous: siblings[index - 1]?.id ?? null,
    next: siblings[index + 1]?.id ?? null
  };
}

/** `messages` with `message` in place of the one of the same id, or at the end. */
export function withMessage(messages: readonly Message[], message: Message): Message[] {
  const index = messages.findIndex((one) => one.id === message.id);
  return index < 0 ? [...messages, message] : messages.with(index, message);
}
