import { beforeEach, describe, expect, it, vi } from 'vitest';
import { backend, useBackend } from '$lib/backend';
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
    expect(trash.list.map(({ id, title }) => [id.type, title]).toSorted()).toEqual([['chat', chat.title], ['messages', other.title]]);
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
    await expect(backend.restore(newest.id)).rejects.toMatchObject({ code: 'notFound' });
    await trash.empty();
    expect(trash.list).toEqual([]);
    expect(await backend.listDeletions(10)).toEqual([]);
  });
});

describe('notices', () => {
  beforeEach(() => start());

  it('that only tell give way, errors and ways back do not', () => {
    toasts.show('a', { action: { label: 'Undo', run: () => {}, isUndo: true } });
    toasts.show('b', { tone: 'bad' });
    for (const text of ['c', 'd', 'e', 'f']) toasts.show(text);
    expect(toasts.list.map(({ text }) => text)).toEqual(['a', 'b', 'd', 'e', 'f']);
    expect(toasts.shown.map(({ text }) => text)).toEqual(['d', 'e', 'f']);
  });

  it('get all their time once they are on screen', () => {
    vi.useFakeTimers();
    for (const text of ['1', '2', '3', '4', '5']) toasts.show(text, { action: { label: 'Undo', run: () => {}, isUndo: true } });
    vi.advanceTimersByTime(19_999);
    expect(toasts.list).toHaveLength(5);
    vi.advanceTimersByTime(1);
    expect(toasts.list.map(({ text }) => text)).toEqual(['1', '2']);
    vi.advanceTimersByTime(20_000);
    expect(toasts.list).toEqual([]);
    vi.useRealTimers();
  });
});
