import { describe, expect, it } from 'vitest';
import type { Message } from '$lib/backend';
import { activePath, branchOf, indexTree, newestLeaf, withMessage } from './tree';

const message = (id: string, parentId: string | null, createdAt = 0): Message => ({
  id,
  parentId,
  role: 'user',
  text: id,
  createdAt,
  state: 'complete',
  stats: null,
  model: null,
  error: null
});

//  a - b - c
//    \ b2 - d
const tree = indexTree([message('a', null), message('b', 'a', 1), message('c', 'b', 2), message('b2', 'a', 3), message('d', 'b2', 4)]);
const ids = (messages: Message[]) => messages.map((one) => one.id);

describe('the message tree', () => {
  it('leads from the first message to the leaf that is active', () => {
    expect(ids(activePath(tree, 'c'))).toEqual(['a', 'b', 'c']);
    expect(ids(activePath(tree, 'd'))).toEqual(['a', 'b2', 'd']);
  });

  it('shows the newest branch where no leaf is remembered or the remembered one is gone', () => {
    expect(ids(activePath(tree, null))).toEqual(['a', 'b2', 'd']);
    expect(ids(activePath(tree, 'deleted'))).toEqual(['a', 'b2', 'd']);
    expect(activePath(indexTree([]), null)).toEqual([]);
  });

  // Continued in place, an earlier answer was the end of the path, and what followed it was out of sight.
  it('ends with a message that nothing follows, also where another one is remembered', () => {
    expect(ids(activePath(tree, 'b'))).toEqual(['a', 'b', 'c']);
    expect(ids(activePath(tree, 'a'))).toEqual(['a', 'b2', 'd']);
  });

  it('counts siblings in the order in which they were written', () => {
    expect(branchOf(tree, message('b', 'a', 1))).toEqual({ position: 1, count: 2, previous: null, next: 'b2' });
    expect(branchOf(tree, message('b2', 'a', 3))).toEqual({ position: 2, count: 2, previous: 'b', next: null });
    expect(branchOf(tree, message('c', 'b', 2))).toBeNull();
  });

  it('orders siblings of one millisecond by id', () => {
    const same = indexTree([message('y', null, 5), message('x', null, 5)]);
    expect(ids(same.children.get(null) ?? [])).toEqual(['x', 'y']);
  });

  it('goes down to the newest leaf below a message', () => {
    expect(newestLeaf(tree, 'a')?.id).toBe('d');
    expect(newestLeaf(tree, 'b')?.id).toBe('c');
    expect(newestLeaf(tree, null)?.id).toBe('d');
  });

  it('makes a message whose parent is gone a root, and survives a circle', () => {
    expect(ids(activePath(indexTree([message('x', 'gone')]), 'x'))).toEqual(['x']);
    const circle = indexTree([message('p', 'q'), message('q', 'p')]);
    expect(ids(activePath(circle, 'p')).toSorted()).toEqual(['p', 'q']);
  });

  it('replaces a message in place and adds a new one at the end', () => {
    const messages = [message('a', null), message('b', 'a')];
    expect(withMessage(messages, { ...message('a', null), text: 'new' })[0]?.text).toBe('new');
    expect(ids(withMessage(messages, message('c', 'b')))).toEqual(['a', 'b', 'c']);
  });
});
