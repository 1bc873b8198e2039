import { beforeEach, describe, expect, it } from 'vitest';
import type { Download, DownloadState, Fit, Offer, Quantization, WeightFormat } from '$lib/backend';
import { failure } from '$lib/backend/fake/failures';
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
  formatText,
  quantizationText,
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
const network = failure('network');

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
  const gguf = (name: string, bits: number): WeightFormat => ({ kind: 'gguf', name, bits, bytes: 24.6e9 });
  const mixed: Quantization = { experts: [gguf('Q4_K', 4.5), gguf('Q6_K', 6.5625)], attention: [gguf('Q8_0', 8.5)] };

  it('is told in short', () => {
    expect(CATALOGUE.map(({ quantization }) => quantization && quantizationText(quantization))).toEqual([
      '2-bit experts, 4-bit attention',
      '3-bit experts, 4-bit attention'
    ]);
    expect(quantizationText(mixed)).toBe('Q4_K experts, Q8_0 attention');
    expect(quantizationText({ experts: [], attention: [] })).toBe('');
  });

  it('is told in full', () => {
    if (!MIXTRAL.quantization) throw new Error('Mixtral is quantized');
    expect(formatText(MIXTRAL.quantization)).toBe(
      'Experts: 2 bits in groups of 16, 8-bit scales in groups of 128. Attention: 4 bits in groups of 64, 8-bit scales in groups of 256.'
    );
    expect(formatText(mixed)).toBe(
      'Experts: Q4_K, 4.50 bits per weight, 24.6\u00a0GB; Q6_K, 6.56 bits per weight, 24.6\u00a0GB. Attention: Q8_0, 8.50 bits per weight, 24.6\u00a0GB.'
    );
  });

  it('is told in German', () => {
    i18n.use('de');
    expect(quantizationText(mixed)).toBe('Experten mit Q4_K, Attention mit Q8_0');
    if (MIXTRAL.quantization) expect(quantizationText(MIXTRAL.quantization)).toBe('Experten mit 2 Bit, Attention mit 4 Bit');
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
  const bad = [{ file: 'a.safetensors', fault: { kind: 'missing' as const } }];

  it('says what was compared, and of what nothing is known', () => {
    expect(verifyText(report)).toBe('All 257 files match the published ones: 18.2\u00a0GB compared.');
    expect(verifyText({ ...report, unknown: 1 })).toMatch(/compared\. No checksum is known for one file\.$/);
    expect(verifyText({ ...report, files: 0, bytes: 0 })).toMatch(/^No checksums are known/);
  });

  it('finds damage that sizes do not show, which is repaired where it can be had again', () => {
    const good = { ...HERMES, health: MIXTRAL.health };
    expect(damageOf(good, undefined)).toBeNull();
    expect(damageOf(good, report)).toBeNull();
    expect(damageOf(good, { ...report, bad })).toMatchObject({ files: bad, canRepair: true });
    expect(damageOf(MIXTRAL, { ...report, bad })).toMatchObject({ canRepair: false });
    expect(damageOf(HERMES, undefined)).toBe(HERMES.health);
  });
});

describe('the system', () => {
  it('is called what people call it', () => {
    expect(systemText('linux', 'x86_64')).toBe('Linux (x86-64)');
    expect(systemText('macos', 'aarch64')).toBe('macOS (ARM64)');
    expect(systemText('freebsd', 'riscv64')).toBe('freebsd (riscv64)');
  });
});
