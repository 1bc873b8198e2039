import { beforeEach, describe, expect, it, vi } from 'vitest';
import { backend, useBackend } from '$lib/backend';
import { createFake } from '$lib/backend/fake';
import { conversation } from './conversation.svelte';
import { edits } from './edits.svelte';
import { models } from './models.svelte';
import { router } from './route.svelte';
import { settings } from './settings.svelte';
import { toasts } from './toasts.svelte';

const FAST = 'rate=5000';

async function start(params = ''): Promise<void> {
  useBackend(createFake(new URLSearchParams(`${params}&${FAST}`)));
  await settings.load();
  await models.start();
  await conversation.open(null);
  conversation.rejected = null;
}

const texts = () => conversation.path.map((message) => message.text);
const last = () => {
  const message = conversation.path.at(-1);
  if (!message) throw new Error('the chat is empty');
  return message;
};

describe('a conversation', () => {
  beforeEach(() => start());

  it('starts a chat with the first message and goes there', async () => {
    await conversation.send('What is Octet?');
    expect(router.current).toEqual({ name: 'chat', id: conversation.id, message: null });
    expect(texts()[0]).toBe('What is Octet?');
    expect(last().role).toBe('assistant');
    expect(last().state).toBe('complete');
    expect(last().text).toContain('Mixtral 8x7B');
    expect(conversation.generation).toBeNull();
    expect(conversation.usage?.used).toBeGreaterThan(0);
  });

  it('puts a second message below the answer', async () => {
    await conversation.send('What is Octet?');
    const answer = last().id;
    await conversation.send('And experts?');
    expect(conversation.path).toHaveLength(4);
    expect(conversation.path[2]?.parentId).toBe(answer);
  });

  it('keeps the old answer beside the new one', async () => {
    await conversation.send('What is Octet?');
    const first = last();
    await conversation.regenerate(first);
    expect(last().id).not.toBe(first.id);
    expect(conversation.branch(last())).toMatchObject({ position: 2, count: 2, previous: first.id });
    await conversation.showBranch(first.id);
    expect(last().id).toBe(first.id);
    expect((await backend.getChat(conversation.id ?? '')).activeLeaf).toBe(first.id);
  });

  it('makes a branch of an edited message and leaves the old one', async () => {
    await conversation.send('What is Octet?');
    const [question] = conversation.path;
    if (!question) throw new Error('the chat is empty');
    await conversation.edit(question, 'How do experts work?');
    expect(texts()[0]).toBe('How do experts work?');
    expect(conversation.path).toHaveLength(2);
    expect(conversation.branch(conversation.path[0] ?? question)).toMatchObject({ position: 2, count: 2 });
  });

  it('stops with what had come, and goes on from there in the same message', async () => {
    await start('rate=60');
    const sending = conversation.send('How do experts work?');
    await vi.waitFor(() => expect(conversation.generation?.text.length ?? 0).toBeGreaterThan(8), 5000);
    await conversation.stop();
    await sending;
    const stopped = last();
    expect(stopped.state).toBe('stopped');
    await conversation.continue(stopped);
    expect(last().id).toBe(stopped.id);
    expect(last().text.startsWith(stopped.text)).toBe(true);
    expect(last().text.length).toBeGreaterThan(stopped.text.length);
    expect(last().state).toBe('complete');
  });

  it('has figures of the whole answer once it was continued', async () => {
    await start('rate=60');
    const sending = conversation.send('How do experts work?');
    await vi.waitFor(() => expect(conversation.generation?.text.length ?? 0).toBeGreaterThan(8), 5000);
    await conversation.stop();
    await sending;
    const before = last().stats?.newTokens ?? 0;
    expect(before).toBeGreaterThan(0);
    await conversation.continue(last());
    expect(last().stats).toMatchObject({ newTokens: Math.ceil(last().text.length / 4), scope: 'continued' });
  });

  it('gives a question back that was stopped while it waited, and leaves nothing of it', async () => {
    await conversation.send('What is Octet?');
    const before = texts();
    const { id } = conversation;
    void models.load('mixtral');
    await vi.waitFor(() => expect(models.state.type).toBe('loading'));
    const sending = conversation.send('And experts?');
    await vi.waitFor(() => expect(conversation.generation?.phase).toBe('queued'));
    await conversation.stop();
    await sending;
    await vi.waitFor(() => expect(conversation.takenBack).toBe('And experts?'));
    expect(conversation.id).toBe(id);
    expect(texts()).toEqual(before);
    expect(conversation.generation).toBeNull();
  });

  it('gives a question back to the chat it was asked in, wherever one is by then', async () => {
    await conversation.send('What is Octet?');
    const { id } = conversation;
    void models.load('mixtral');
    await vi.waitFor(() => expect(models.state.type).toBe('loading'));
    const sending = conversation.send('And experts?');
    await vi.waitFor(() => expect(conversation.generation?.phase).toBe('queued'));
    const stopping = conversation.stop();
    void conversation.open(null);
    await Promise.all([stopping, sending]);
    await vi.waitFor(async () => expect(await backend.getDraft(id)).toBe('And experts?'));
    expect(conversation.takenBack).toBeNull();
  });

  it('continues an earlier answer as a version of its own, and loses nothing of what follows', async () => {
    await conversation.send('How do experts work?');
    const early = last();
    await conversation.send('What is Octet?');
    const before = texts();
    await conversation.continue(early);
    expect(last().id).not.toBe(early.id);
    expect(last().text.startsWith(early.text)).toBe(true);
    expect(conversation.branch(last())).toMatchObject({ position: 2, count: 2, previous: early.id });
    await conversation.showBranch(early.id);
    expect(texts()).toEqual(before);
  });

  it('comes back to a version where it was left, not at its newest end', async () => {
    await conversation.send('What is Octet?');
    const first = last();
    await conversation.send('And experts?');
    const left = last();
    await conversation.regenerate(left);
    await conversation.showBranch(left.id);
    const before = texts();
    await conversation.regenerate(first);
    expect(texts()).toHaveLength(2);
    await conversation.showBranch(first.id);
    expect(last().id).toBe(left.id);
    expect(texts()).toEqual(before);
  });

  it('takes a deleted message back, with what followed it', async () => {
    await conversation.send('What is Octet?');
    const before = texts();
    await conversation.remove(conversation.path[0] ?? last());
    expect(texts()).toEqual([]);
    toasts.list.at(-1)?.action?.run();
    await vi.waitFor(() => expect(texts()).toEqual(before));
  });

  it('goes on in the background when another chat is opened', async () => {
    await start('rate=200');
    const sending = conversation.send('How do experts work?');
    await vi.waitFor(() => expect(conversation.generation).not.toBeNull());
    const { id } = conversation;
    await conversation.open(null);
    expect(conversation.generation).toBeNull();
    expect(conversation.generations.size).toBe(1);
    await sending;
    await conversation.open(id);
    expect(last().state).toBe('complete');
    expect(conversation.generations.size).toBe(0);
  });
});

describe('what goes wrong in a conversation', () => {
  it('keeps what had come when the engine fails, and says why', async () => {
    await start('fail=answer:gpuFailed');
    await conversation.send('How do experts work?');
    expect(last().state).toBe('error');
    expect(last().text).not.toBe('');
    expect(conversation.failures.get(last().id)?.kind).toBe('gpuFailed');
  });

  it('gives a message back that was not taken', async () => {
    await start('fail=sendMessage:notLoaded');
    await conversation.send('Hello');
    expect(conversation.rejected?.error.kind).toBe('notLoaded');
    expect(conversation.generation).toBeNull();
    expect(conversation.id).toBeNull();
    expect((await backend.listChats(null, 100)).chats.some((chat) => chat.messageCount === 0)).toBe(false);
    expect(await backend.getDraft(null)).toBe('Hello');
  });

  // The field for a new message held something else, and the edit was gone.
  it('goes on with an edit that was not taken', async () => {
    await start('fail=editMessage:storeDiskFull');
    await conversation.send('What is Octet?');
    const [question] = conversation.path;
    if (!question) throw new Error('the chat is empty');
    edits.begin(question);
    edits.end(question.id);
    await conversation.edit(question, 'What is Octet for?');
    expect(conversation.rejected).toMatchObject({ text: null, error: { kind: 'storeDiskFull' } });
    expect(edits.texts.get(question.id)).toBe('What is Octet for?');
  });

  it('gives a message back when no chat can be made', async () => {
    await start('fail=createChat:storeDiskFull');
    await conversation.send('Hello');
    expect(conversation.rejected).toMatchObject({ text: 'Hello', error: { kind: 'storeDiskFull' } });
  });

  it('says why a chat cannot be shown', async () => {
    await start('fail=getChat:storeDamaged');
    await conversation.open('any');
    expect(conversation.error?.kind).toBe('storeDamaged');
  });

  it('queues a message while the model loads', async () => {
    await start('model=loading&loadMs=400');
    const sending = conversation.send('What is Octet?');
    await vi.waitFor(() => expect(conversation.generation?.queue?.reason).toBe('modelLoading'));
    expect(conversation.generation?.question?.text).toBe('What is Octet?');
    await sending;
    expect(last().state).toBe('complete');
  });
});

describe('settings and models', () => {
  it('saves the settings before a message is sent', async () => {
    await start();
    const saved = vi.spyOn(backend, 'saveSettings');
    settings.change((all) => (all.sampling.temperature = 1.5));
    await conversation.send('What is Octet?');
    expect(saved).toHaveBeenCalledOnce();
    expect(saved.mock.calls[0]?.[0].sampling.temperature).toBe(1.5);
  });

  it('takes over what was brought into range', async () => {
    await start();
    settings.change((all) => (all.sampling.temperature = 9));
    await settings.flush();
    expect(settings.current.sampling.temperature).toBe(2);
  });

  // A save with older settings once undid what the program had remembered by itself.
  it('does not forget which model was loaded', async () => {
    await start('model=none');
    await models.load('demo');
    settings.change((all) => (all.sampling.topK = 7));
    await settings.flush();
    expect((await backend.loadSettings()).lastModel).toBe('demo');
  });

  it('asks for a reload once an offload setting differs from what is loaded', async () => {
    await start();
    expect(models.isReloadNeeded).toBe(false);
    settings.change((all) => (all.offload.contextLength = 4096));
    expect(models.isReloadNeeded).toBe(true);
    await models.reload();
    expect(models.isReloadNeeded).toBe(false);
    expect(models.plan?.contextLength).toBe(4096);
  });

  it('shows the numbers of a load that failed, and loads anyway', async () => {
    await start('model=none&fail=loadModel:tooBig&loadMs=60');
    await models.load('mixtral');
    expect(models.state).toMatchObject({ type: 'failed', error: { kind: 'tooBig' } });
    await models.load('mixtral', true);
    expect(models.state.type).toBe('ready');
  });
});
