import { beforeEach, describe, expect, it } from 'vitest';
import type { Download, DownloadState, Fit, Offer } from '$lib/backend';
import { HERMES, MIXTRAL } from '$lib/backend/fake/models';
import { CATALOGUE } from '$lib/backend/fake/offers';
import { i18n } from '$lib/i18n/index.svelte';
import {
  comparedText,
  damageOf,
  downloadText,
  licenseName,
  offerBadge,
  offerPlan,
  offerQuantization,
  quantizationText,
  repoIn,
  speedText,
  tokenizerText,
  verifyText,
  systemText
} from './words';

beforeEach(() => i18n.use('en'));

const download = (state: DownloadState): Download => ({
  repo: 'ada/model',
  state,
  doneBytes: 7.5e9,
  totalBytes: 18.2e9,
  filesDone: 105,
  files: 259,
  bytesPerSec: 38.2e6,
  secondsLeft: 285,
  isRepair: false
});
const network = { code: 'network', message: '', hint: '' } as const;

describe('a download in words', () => {
  it.each<[DownloadState, string]>([
    [{ kind: 'queued', ahead: 1 }, 'waiting for another download'],
    [{ kind: 'queued', ahead: 3 }, 'waiting for 3 other downloads'],
    [{ kind: 'preparing' }, 'checking files'],
    [{ kind: 'running' }, '38\u00a0MB/s, 4\u00a0min 45\u00a0s left'],
    [{ kind: 'stalled', seconds: 75 }, 'nothing received for 1\u00a0min 15\u00a0s, reconnecting'],
    [{ kind: 'retrying', inSeconds: 8, problem: network }, 'interrupted, retrying in 8\u00a0s'],
    [{ kind: 'paused', reason: 'asked' }, 'paused'],
    [{ kind: 'paused', reason: 'interrupted' }, 'paused: Octet was closed during the download'],
    [{ kind: 'failed', problem: network }, 'failed']
  ])('%o', (state, text) => {
    expect(downloadText(download(state))).toBe(text);
  });

  it('says no speed and no time that are not known', () => {
    expect(speedText(0, null)).toBe('starting');
    expect(speedText(1.2e6, null)).toBe('1\u00a0MB/s');
  });
});

describe('quantization', () => {
  it('is short where it begins with bits', () => {
    expect(quantizationText(MIXTRAL)).toBe('2-bit experts, 4-bit attention');
    expect(quantizationText(HERMES)).toBe('3-bit experts, 4-bit attention');
    expect(quantizationText({ ...MIXTRAL, expertQuantization: 'mixed: 2 and 3 bits' })).toBe('mixed: 2 and 3 bits');
  });

  it('is read from what the catalogue says', () => {
    expect(offerQuantization('HQQ: 2-bit experts in groups of 16, 4-bit attention in groups of 64')).toBe('2-bit experts, 4-bit attention');
    expect(offerQuantization('float16')).toBe('float16');
  });
});

describe('an offer', () => {
  it('has a badge as far as its fit is known', () => {
    const offer = CATALOGUE[0];
    if (!offer) throw new Error('the catalogue is empty');
    const tone = (badge: Fit | null) => offerBadge({ ...offer, fit: { ...offer.fit, badge } })?.tone;
    expect([tone('fits'), tone('tight'), tone('tooBig'), tone(null)]).toEqual(['', 'warn', 'bad', undefined]);
  });

  it('says where its experts would go, and where its tokenizer comes from', () => {
    const offer = CATALOGUE[0];
    if (!offer) throw new Error('the catalogue is empty');
    const plan = (change: Partial<Offer['fit']>) => offerPlan({ ...offer, fit: { ...offer.fit, ...change } });
    expect(plan({ expertsOnGpu: 4.5 })).toBe('Plan: 4.5 experts per layer on the GPU.');
    expect(plan({ expertsOnGpu: null })).toBe('Plan: all 256 experts in RAM.');
    expect(plan({ expertsOnGpu: null, expertsInRam: 92, badge: 'tight' })).toBe(
      'Plan: 92 of 256 experts in RAM, the rest are read from disk.'
    );
    expect(plan({ badge: 'tooBig' })).toBeNull();
    expect(tokenizerText({ ...offer, tokenizerFrom: ['a/b', 'c/d', 'e/f'] })).toBe('Tokenizer: a/b (fallback: c/d, e/f)');
    expect(tokenizerText({ ...offer, tokenizerFrom: ['a/b'] })).toBe('Tokenizer: a/b');
    expect(tokenizerText({ ...offer, tokenizerFrom: [offer.repo, 'c/d'] })).toBe('Tokenizer: included');
    expect(tokenizerText({ ...offer, tokenizerFrom: [] })).toBeNull();
  });

  it('says how it differs from the version next to it', () => {
    const [two, three] = CATALOGUE;
    if (!two || !three) throw new Error('the catalogue lacks a version');
    expect(comparedText(three)).toBe(`Better answers than ${two.title}, slower, needs 4.7\u00a0GB more.`);
    expect(comparedText(two)).toBe(`Faster than ${three.title} and needs 4.7\u00a0GB less; answers a little less well.`);
    expect(comparedText({ ...two, compared: null })).toBeNull();
    i18n.use('de');
    expect(comparedText(three)).toBe(`Bessere Antworten als ${two.title}, langsamer, braucht 4,7\u00a0GB mehr.`);
  });

  it('names its licence as a person does', () => {
    expect(licenseName('apache-2.0')).toBe('Apache 2.0');
    expect(licenseName('llama3')).toBe('llama3');
  });
});

describe('a check', () => {
  const report = { model: 'mixtral', files: 257, bytes: 18.2e9, bad: [], unknown: 0 };
  const bad = [{ file: 'a.safetensors', reason: 'has other bytes' }];

  it('says what was compared, and of what nothing is known', () => {
    expect(verifyText(report)).toBe('All 257 files match the published ones: 18.2\u00a0GB compared.');
    expect(verifyText({ ...report, unknown: 1 })).toMatch(/compared\. No checksum is known for one file\.$/);
    expect(verifyText({ ...report, files: 0, bytes: 0 })).toMatch(/^No checksums are known/);
  });

  it('finds damage that sizes do not show, which is repaired where it can be had again', () => {
    const good = { ...HERMES, health: MIXTRAL.health };
    expect(damageOf(good, undefined)).toBeNull();
    expect(damageOf(good, report)).toBeNull();
    expect(damageOf(good, { ...report, bad })).toMatchObject({ files: ['a.safetensors'], canRepair: true });
    expect(damageOf(MIXTRAL, { ...report, bad })).toMatchObject({ canRepair: false });
    expect(damageOf(HERMES, undefined)).toBe(HERMES.health);
  });
});

describe('the repository that a message names', () => {
  it.each([
    ['mistralai/Mixtral-8x7B-Instruct-v0.1 is gated: its terms', 'mistralai/Mixtral-8x7B-Instruct-v0.1'],
    ['No tokenizer for a/b was found; tried c/d (gated).', 'a/b'],
    ['See https://example.org/settings/tokens.', null],
    ['It is private.', null]
  ])('%s', (message, repo) => {
    expect(repoIn(message)).toBe(repo);
  });
});

describe('the system', () => {
  it('is called what people call it', () => {
    expect(systemText('linux', 'x86_64')).toBe('Linux (x86-64)');
    expect(systemText('macos', 'aarch64')).toBe('macOS (ARM64)');
    expect(systemText('freebsd', 'riscv64')).toBe('freebsd (riscv64)');
  });
});
