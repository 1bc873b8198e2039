import { beforeEach, describe, expect, it } from 'vitest';
import { backend, useBackend } from '$lib/backend';
import { createFake } from '$lib/backend/fake';
import { conversation } from './conversation.svelte';
import { edits } from './edits.svelte';
import { models } from './models.svelte';
import { settings } from './settings.svelte';
import { flushAll } from './unsaved';

async function chatWithTwoQuestions(): Promise<string> {
  await conversation.open(null);
  await conversation.send('What is Octet?');
  await conversation.send('And experts?');
  return conversation.id ?? '';
}

const asked = (index: number) => {
  const message = conversation.path.filter(({ role }) => role === 'user')[index];
  if (!message) throw new Error('two questions were asked');
  return message;
};

describe('an edit in progress', () => {
  beforeEach(async () => {
    useBackend(createFake(new URLSearchParams('rate=5000')));
    await settings.load();
    await models.start();
  });

  it('survives another chat, a restart and a second edit', async () => {
    const chat = await chatWithTwoQuestions();
    const [first, second] = [asked(0), asked(1)];
    edits.begin(first);
    expect(edits.texts.get(first.id)).toBe('What is Octet?');
    edits.type(first.id, 'What is Octet good f');
    edits.begin(second);
    edits.type(second.id, '');
    await conversation.open(null);
    await edits.show(null);
    expect(edits.texts.size).toBe(0);
    await conversation.open(chat);
    await edits.show(chat);
    expect([...edits.texts]).toEqual([
      [first.id, 'What is Octet good f'],
      [second.id, '']
    ]);

    // A restart: nothing but what the back end has.
    edits.type(first.id, 'What is Octet good for');
    await flushAll();
    expect(await backend.getEdits(chat)).toEqual([
      { messageId: first.id, text: 'What is Octet good for' },
      { messageId: second.id, text: '' }
    ]);
    edits.end(first.id);
    edits.end(second.id);
    await flushAll();
    expect(await backend.getEdits(chat)).toEqual([]);
  });

  it('that nothing was typed in is none', async () => {
    const chat = await chatWithTwoQuestions();
    edits.begin(asked(0));
    await conversation.open(null);
    await edits.show(chat);
    expect(edits.texts.size).toBe(0);
  });
});
