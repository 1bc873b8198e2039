import { beforeEach, describe, expect, it, vi } from 'vitest';
import { backend, useBackend, type ChatSummary, type Deletion } from '$lib/backend';
import { createFake } from '$lib/backend/fake';
import { i18n } from '$lib/i18n/index.svelte';
import { chats } from './chats.svelte';
import { conversation } from './conversation.svelte';
import { models } from './models.svelte';
import { settings } from './settings.svelte';
import { toasts } from './toasts.svelte';
import { trash } from './trash.svelte';

async function start(): Promise<void> {
  useBackend(createFake(new URLSearchParams('rate=5000')));
  i18n.use('en');
  await settings.load();
  await models.start();
  await chats.start();
  await conversation.open(null);
  await trash.load();
  for (const toast of toasts.list) toasts.dismiss(toast.id);
}

const ids = () => chats.list.map(({ id }) => id);

describe('the trash', () => {
  beforeEach(() => start());

  // Only three notices were kept: the first of four deletions lost its way back.
  it('leaves each of several quick deletions its undo', async () => {
    const before = ids();
    for (const chat of chats.list.slice(0, 6)) await chats.remove(chat);
    expect(ids()).toEqual(before.slice(6));
    expect(toasts.shown).toHaveLength(3);
    for (let n = 0; n < 6; n++) {
      expect(toasts.undo()).toBe(true);
      await vi.waitFor(() => expect(ids()).toHaveLength(before.length - 5 + n));
    }
    expect(ids()).toEqual(before);
    expect(toasts.undo()).toBe(false);
  });

  it('has deleted chats and messages, and brings each back', async () => {
    const [chat, other] = chats.list;
    if (!chat || !other) throw new Error('there are sample chats');
    await conversation.open(other.id);
    const texts = conversation.path.map(({ text }) => text);
    const [first] = conversation.path;
    if (!first) throw new Error('the chat has messages');
    await conversation.remove(first);
    await chats.remove(chat);
    await trash.load();
    expect(trash.list.map(({ id, title }) => [id.type, title]).toSorted()).toEqual([
      ['chat', chat.title],
      ['messages', other.title]
    ]);
    for (const deletion of trash.list) await trash.restore(deletion);
    expect(trash.list).toEqual([]);
    expect(ids()).toContain(chat.id);
    expect(conversation.path.map(({ text }) => text)).toEqual(texts);
  });

  it('deletes for good what is chosen, or everything', async () => {
    const gone = chats.list.slice(0, 3);
    for (const chat of gone) await chats.remove(chat);
    await trash.load();
    const [newest] = trash.list;
    if (!newest) throw new Error('three chats were deleted');
    await trash.deleteForGood(newest);
    expect(trash.list).toHaveLength(2);
    await expect(backend.restore(newest.id)).rejects.toMatchObject({ kind: 'notStored' });
    await trash.empty();
    expect(trash.list).toEqual([]);
    expect(await backend.listDeletions(10)).toEqual([]);
  });
});

// A notice outlived what it offered to undo, and its button then said that it no longer exists.
describe('an offer to undo', () => {
  const undos = () => toasts.list.filter(({ action }) => action?.undoes).map(({ text }) => text);
  let chat: ChatSummary;
  let other: ChatSummary;

  beforeEach(async () => {
    await start();
    const [first, second] = chats.list;
    if (!first || !second) throw new Error('there are sample chats');
    [chat, other] = [first, second];
  });

  const deletionOf = (title: string) => {
    const found = trash.list.find((deletion) => deletion.title === title);
    if (!found) throw new Error(`${title} is in the trash`);
    return found;
  };
  const removeMessage = async (id: string, index: number) => {
    await conversation.open(id);
    const message = conversation.path[index];
    if (!message) throw new Error('the chat has that many messages');
    await conversation.remove(message);
  };

  it('goes when the chat is deleted permanently, and no other does', async () => {
    await chats.remove(chat);
    await chats.remove(other);
    await trash.load();
    expect(undos()).toHaveLength(2);
    await trash.deleteForGood(deletionOf(chat.title));
    expect(undos()).toEqual([`“${other.title}” deleted`]);
    expect(toasts.undo()).toBe(true);
    await vi.waitFor(() => expect(ids()).toContain(other.id));
    expect(toasts.undo()).toBe(false);
    expect(toasts.list).toEqual([]);
  });

  it('goes when the trash is emptied', async () => {
    await chats.remove(chat);
    await removeMessage(other.id, 1);
    expect(undos()).toHaveLength(2);
    await trash.empty();
    expect(toasts.list).toEqual([]);
  });

  it('goes when it is restored from the trash', async () => {
    await chats.remove(chat);
    await trash.load();
    await trash.restore(deletionOf(chat.title));
    expect(undos()).toEqual([]);
    expect(toasts.list.map(({ text }) => text)).toEqual([`“${chat.title}” restored`]);
  });

  it('goes when it was restored behind the page', async () => {
    await trash.start();
    await chats.remove(chat);
    await backend.restore({ type: 'chat', id: chat.id });
    await vi.waitFor(() => expect(undos()).toEqual([]));
  });

  it('stays for a message while its chat is in the trash, and goes with the chat', async () => {
    await removeMessage(chat.id, 0);
    await chats.remove(chat);
    await trash.load();
    expect(trash.list.map(({ id }) => id.type)).toEqual(['chat']);
    expect(undos()).toEqual(['Message and replies deleted', `“${chat.title}” deleted`]);
    await trash.deleteForGood(deletionOf(chat.title));
    expect(undos()).toEqual([]);
  });

  it('goes for a message when what it followed is deleted permanently', async () => {
    const long = chats.list.find(({ messageCount }) => messageCount > 4);
    if (!long) throw new Error('one sample chat has two answers to its last question');
    await removeMessage(long.id, 3);
    await removeMessage(long.id, 2);
    await trash.load();
    expect(undos()).toHaveLength(2);
    const newest = trash.list.find(({ messageCount }) => messageCount > 1);
    if (!newest) throw new Error('the other answer went with the question');
    await trash.deleteForGood(newest);
    expect(undos()).toEqual([]);
  });

  it('is not taken away by a list that was asked for before the deletion', async () => {
    let answer: (deletions: Deletion[]) => void = () => {};
    vi.spyOn(backend, 'listDeletions').mockReturnValueOnce(new Promise((resolve) => (answer = resolve)));
    const listing = trash.load();
    await chats.remove(chat);
    answer([]);
    await listing;
    expect(undos()).toEqual([`“${chat.title}” deleted`]);
  });

  it('stays where the trash cannot be read', async () => {
    await chats.remove(chat);
    vi.spyOn(backend, 'listDeletions').mockRejectedValue({ kind: 'storeLocked', path: 'chats.db' });
    await trash.load();
    expect(undos()).toHaveLength(1);
  });
});

describe('an offer to open what was restored', () => {
  it('goes when that is deleted again', async () => {
    await start();
    const [chat] = chats.list;
    if (!chat) throw new Error('there are sample chats');
    await chats.remove(chat);
    await trash.load();
    const [deletion] = trash.list;
    if (!deletion) throw new Error('the chat is in the trash');
    await trash.restore(deletion);
    expect(toasts.list.map(({ action }) => action?.label)).toEqual(['Open chat']);
    await chats.remove(chat);
    expect(toasts.list.map(({ action }) => action?.label)).toEqual(['Undo']);
  });
});

describe('notices', () => {
  beforeEach(() => start());

  it('that only tell give way, errors and ways back do not', () => {
    toasts.show('a', { action: { label: 'Undo', run: () => {}, undoes: { preset: 'a' } } });
    toasts.show('b', { tone: 'bad' });
    for (const text of ['c', 'd', 'e', 'f']) toasts.show(text);
    expect(toasts.list.map(({ text }) => text)).toEqual(['a', 'b', 'd', 'e', 'f']);
    expect(toasts.shown.map(({ text }) => text)).toEqual(['d', 'e', 'f']);
  });

  it('get all their time once they are on screen', () => {
    vi.useFakeTimers();
    for (const text of ['1', '2', '3', '4', '5']) toasts.show(text, { action: { label: 'Undo', run: () => {}, undoes: { preset: 'a' } } });
    vi.advanceTimersByTime(19_999);
    expect(toasts.list).toHaveLength(5);
    vi.advanceTimersByTime(1);
    expect(toasts.list.map(({ text }) => text)).toEqual(['1', '2']);
    vi.advanceTimersByTime(20_000);
    expect(toasts.list).toEqual([]);
    vi.useRealTimers();
  });
});
