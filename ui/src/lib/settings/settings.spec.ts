import { describe, expect, it } from 'vitest';
import type { OffloadSettings, SamplingSettings } from '$lib/backend';
import { parseNumber, snap } from './fields';
import { builtIn, matchBuiltIn, needsReload, parseSeed, presetNamed, presetNameProblem, sameSampling } from './presets';

const defaults: SamplingSettings = {
  temperature: 0.7,
  topP: 0.95,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  maxTokens: null,
  seed: null,
  stop: [],
  systemPrompt: ''
};
const offload: OffloadSettings = {
  preset: 'auto',
  expertsPerLayerOnGpu: null,
  misses: 'auto',
  prefetch: null,
  vramBudgetBytes: null,
  ramBudgetBytes: null,
  contextLength: null,
  threads: null
};

describe('presets', () => {
  it('are recognized by their values, whatever f32 made of them', () => {
    expect(matchBuiltIn({ ...defaults, temperature: Math.fround(0.7), topP: Math.fround(0.95) }, defaults)).toBe('balanced');
    expect(matchBuiltIn({ ...defaults, ...builtIn('creative', defaults) }, defaults)).toBe('creative');
    expect(matchBuiltIn({ ...defaults, temperature: 0.71 }, defaults)).toBeNull();
  });

  it('leave alone what they do not tune', () => {
    expect({ ...defaults, stop: ['END'], systemPrompt: 'Be brief', ...builtIn('precise', defaults) }).toMatchObject({
      stop: ['END'],
      systemPrompt: 'Be brief',
      temperature: 0.2
    });
  });

  it('compare every field', () => {
    expect(sameSampling(defaults, { ...defaults })).toBe(true);
    for (const other of [{ topK: 5 }, { seed: '1' }, { stop: ['a'] }, { systemPrompt: 'x' }, { maxTokens: 9 }]) {
      expect(sameSampling(defaults, { ...defaults, ...other })).toBe(false);
    }
  });

  it('need a name of their own', () => {
    expect(presetNameProblem('  ', [])).toBe('empty');
    expect(presetNameProblem(' balanced', ['Balanced'])).toBe('taken');
    expect(presetNameProblem('terse', ['Balanced'])).toBeNull();
    expect(presetNameProblem('x'.repeat(61), [])).toBe('long');
    const terse = { name: 'Terse', sampling: defaults };
    expect(presetNamed('terse ', [terse])).toBe(terse);
    expect(presetNamed('ters', [terse])).toBeUndefined();
  });
});

describe('numbers typed by a person', () => {
  it.each([
    ['0.7', 0.7],
    ['0,7', 0.7],
    [' 12 ', 12],
    ['.5', 0.5],
    ['-1', -1]
  ])('%s is %d', (text, value) => expect(parseNumber(text)).toBe(value));

  it.each(['', 'abc', '1e9', '1.2.3', '0x10', 'Infinity', '--1'])('%s is none', (text) => expect(parseNumber(text)).toBeNull());

  it('stand at a step of the slider', () => {
    expect(snap(11.4, 1, 12, 0.5)).toBe(11.5);
    expect(snap(0.7, 0, 2, 0.05)).toBe(0.7);
    expect(snap(8192, 512, 32768, 512)).toBe(8192);
    expect(snap(99, 0, 8, 1)).toBe(8);
  });
});

describe('a seed', () => {
  it('keeps all of its 64 bits', () => {
    expect(parseSeed('18446744073709551615')).toEqual({ seed: '18446744073709551615' });
    expect(parseSeed('007')).toEqual({ seed: '7' });
    expect(parseSeed('')).toEqual({ seed: null });
  });

  it('says what is wrong with it', () => {
    expect(parseSeed('18446744073709551616')).toEqual({ problem: 'range' });
    expect(parseSeed('-1')).toEqual({ problem: 'number' });
    expect(parseSeed('1.5')).toEqual({ problem: 'number' });
  });
});

describe('a reload', () => {
  it('is needed exactly when an offload setting differs', () => {
    expect(needsReload(offload, { ...offload })).toBe(false);
    expect(needsReload(offload, { ...offload, contextLength: 4096 })).toBe(true);
    expect(needsReload({ ...offload, threads: 4 }, offload)).toBe(true);
  });
});
