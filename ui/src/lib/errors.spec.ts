import { beforeEach, describe, expect, it } from 'vitest';
import type { ApiError, FileFault, Foreign, ForeignFault, InvalidInput, KeyringProblem, TokenizerFault } from '$lib/backend';
import { FAILURES, NOTICES } from '$lib/backend/fake/failures';
import { i18n, type Language } from '$lib/i18n/index.svelte';
import { fileFault, foreignFault, importedName, inputFault, tokenizerFault, tokenNote } from '$lib/models/faults';
import { asApiError, errorWords, keptError } from './errors';
import { noticeWords } from './notices';

const failures: readonly ApiError[] = Object.values(FAILURES);
const notices = Object.values(NOTICES);

/** One of every kind, which TypeScript demands. */
type Every<Union extends { kind: string }> = { readonly [K in Union['kind']]: Extract<Union, { kind: K }> };

const FOREIGN: Every<ForeignFault> = {
  noFile: { kind: 'noFile', file: 'config.json' },
  noIndexedFile: { kind: 'noIndexedFile', file: 'model-1.safetensors' },
  noEmbeddings: { kind: 'noEmbeddings' },
  noExpert: { kind: 'noExpert', layer: 1, expert: 2 },
  notHqq: { kind: 'notHqq' },
  fileTooLarge: { kind: 'fileTooLarge', file: 'config.json', found: 2e6, limit: 1e6 },
  refused: { kind: 'refused', detail: 'expected value at line 1' }
};
const TOKENIZER: Every<TokenizerFault> = {
  none: { kind: 'none' },
  gated: { kind: 'gated' },
  noRepository: { kind: 'noRepository' },
  wrongSize: { kind: 'wrongSize', tokens: 259, model: 32_000 },
  unusable: { kind: 'unusable', detail: 'its BOS is 2, not 3' }
};
const INPUT: Every<InvalidInput> = {
  noHome: { kind: 'noHome' },
  repoName: { kind: 'repoName', name: 'a//b', fault: 'slashes' },
  endpoint: { kind: 'endpoint', inEnvironment: true, fault: { kind: 'noAddress', detail: 'empty host' } },
  networkSettings: { kind: 'networkSettings', detail: 'invalid proxy' },
  token: { kind: 'token' },
  hash: { kind: 'hash', hash: 'xyz' },
  notRepairable: { kind: 'notRepairable', model: '/home/ada/m' },
  folderInside: { kind: 'folderInside' },
  folderHas: { kind: 'folderHas', repo: 'ada/m' }
};
const FILE: Every<FileFault> = {
  missing: { kind: 'missing' },
  notAFile: { kind: 'notAFile' },
  size: { kind: 'size', found: 5, expected: 7 },
  content: { kind: 'content', found: '90ab', expected: '3f1c' },
  unreadable: { kind: 'unreadable', detail: 'Input/output error' },
  refused: { kind: 'refused', detail: 'tensor `w` is missing' }
};
const KEYRING: Every<KeyringProblem> = {
  none: { kind: 'none' },
  silent: { kind: 'silent' },
  broken: { kind: 'broken' },
  failed: { kind: 'failed', detail: 'org.freedesktop.Secret.Error' }
};
const IMPORTED: { readonly [K in Foreign]: true } = {
  zip: true,
  emptyZip: true,
  gzip: true,
  sevenZip: true,
  database: true,
  pdf: true,
  picture: true,
  utf16: true,
  empty: true,
  binary: true,
  chatGpt: true,
  claude: true,
  openWebUi: true,
  lmStudio: true,
  openAiMessages: true,
  octetSettings: true,
  emptyList: true
};

/** All that is said of everything that can go wrong, but the details from outside. */
function everything(): string[] {
  const said: (string | null)[] = [];
  for (const error of failures) {
    const { title, text, next } = errorWords(error);
    said.push(title, text, next);
  }
  for (const notice of notices) {
    const { title, text } = noticeWords(notice);
    said.push(title, text);
  }
  said.push(
    ...Object.values(FOREIGN).map((fault) => foreignFault(fault).text),
    ...Object.values(TOKENIZER).map((fault) => tokenizerFault(fault).text),
    ...Object.values(FILE).map((fault) => fileFault(fault).text),
    ...(Object.keys(IMPORTED) as Foreign[]).map(importedName),
    ...Object.values(INPUT).flatMap((input) => [inputFault(input).text, inputFault(input).next]),
    ...Object.values(KEYRING).flatMap((problem) => [
      tokenNote({ kind: 'notRead', problem }).text,
      tokenNote({ kind: 'notKept', problem }).text
    ])
  );
  return said.filter((text) => text !== null);
}

beforeEach(() => i18n.use('en'));

describe.each<Language>(['en', 'de'])('in %s', (language) => {
  beforeEach(() => i18n.use(language));

  it('all that can go wrong has words, with every value in its place', () => {
    for (const text of everything()) expect(text).not.toMatch(/^\s*$|[{}]|undefined|null|NaN/);
  });

  it('every failure has a title and a next step that are sentences', () => {
    for (const error of failures) {
      const { title, next } = errorWords(error);
      expect(title, error.kind).toMatch(/^\p{Lu}.*\.$/u);
      expect(next, error.kind).toMatch(/^\p{Lu}.{8}/u);
    }
  });
});

it('no German text holds English words', () => {
  i18n.use('de');
  const english = /\b(the|and|with|your|is not|of the|could|has|it|files|were|please|missing|can’t|needed|by)\b/i;
  // Names and addresses come from outside.
  const names = /(?:[\w.-]*\/)+[\w.-]*|\b[\w-]+\.\w+\b/g;
  for (const text of everything()) expect(text.replace(names, '')).not.toMatch(english);
});

it('what comes from outside stays as it is, in English, apart from the rest', () => {
  i18n.use('de');
  for (const error of failures) {
    if (!('detail' in error)) continue;
    const { title, text, detail, next } = errorWords(error);
    expect(detail, error.kind).toBe(error.detail);
    expect(`${title} ${text} ${next}`, error.kind).not.toContain(error.detail);
  }
});

describe('a failure', () => {
  it('tells its numbers and names', () => {
    expect(errorWords(FAILURES.contextFull)).toEqual({
      title: 'The conversation does not fit in the context.',
      text: '9,120 tokens are needed; the context holds 8,192.',
      detail: null,
      next: 'Shorten the message, start a new chat, or load the model with a context of 9,632 tokens.'
    });
    expect(errorWords({ ...FAILURES.contextFull, enough: null }).next).toMatch(/no longer context/);
    expect(errorWords(FAILURES.tooBig).text).toBe('The model needs 18.9\u00a0GB of RAM, 6.5\u00a0GB more than the limit of 12.4\u00a0GB.');
    expect(errorWords(FAILURES.noTokenizerFound).text).toBe(
      'No tokenizer was found for ada/Mixtral-8x7B-HQQ. Tried: ada/Mixtral-8x7B-HQQ (has none); mistralai/Mixtral-8x7B-v0.1 (gated).'
    );
    expect(errorWords(FAILURES.samplingRange).text).toBe('Temperature: -1');
  });

  it('of whatever else was thrown is a fault of the program', () => {
    expect(asApiError(FAILURES.gated)).toBe(FAILURES.gated);
    expect(asApiError(new Error('no such command'))).toEqual({ kind: 'internal', detail: 'no such command' });
    expect(asApiError({ kind: 'unheard of' })).toMatchObject({ kind: 'internal' });
  });
});

describe('a failure that is kept with an answer', () => {
  it('is read again', () => {
    expect(keptError(JSON.stringify(FAILURES.gpuFailed))).toEqual(FAILURES.gpuFailed);
  });

  it('of an earlier version is its sentence, or nothing', () => {
    const sentence = 'the GPU failed (Xid 79); the model now runs on the CPU';
    expect(errorWords(keptError(sentence))).toMatchObject({ title: 'The answer could not be finished.', detail: sentence });
    expect(errorWords(keptError(null)).detail).toBe('');
    expect(keptError('{"kind":"unheard of"}').kind).toBe('computation');
  });
});

it('what was recovered is counted, and nothing is said so', () => {
  const recovered = (chats: number, messages: number) => noticeWords({ ...NOTICES.storeRestored, chats, messages }).text;
  expect(recovered(0, 0)).toBe('No chats could be recovered.');
  expect(recovered(1, 12)).toBe('1 chat with 12 messages recovered.');
  expect(recovered(3, 1)).toBe('3 chats with 1 message recovered.');
});
