import type { OffloadSettings, Preset, SamplingSettings } from '$lib/backend';

export const BUILT_IN = ['balanced', 'precise', 'creative'] as const;
export type BuiltIn = (typeof BUILT_IN)[number];

/** What a built-in preset changes; the rest of the settings stays as it is. */
type Tuned = Pick<SamplingSettings, 'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty'>;

const TUNED: Record<Exclude<BuiltIn, 'balanced'>, Tuned> = {
  precise: { temperature: 0.2, topP: 0.9, topK: 0, minP: 0, repetitionPenalty: 1 },
  creative: { temperature: 1, topP: 0.98, topK: 0, minP: 0.02, repetitionPenalty: 1 }
};

export function builtIn(name: BuiltIn, defaults: SamplingSettings): Tuned {
  if (name !== 'balanced') return TUNED[name];
  const { temperature, topP, topK, minP, repetitionPenalty } = defaults;
  return { temperature, topP, topK, minP, repetitionPenalty };
}

const near = (a: number, b: number) => Math.abs(a - b) < 1e-6;

/** The built-in preset that `sampling` is at, if any. */
export function matchBuiltIn(sampling: SamplingSettings, defaults: SamplingSettings): BuiltIn | null {
  return (
    BUILT_IN.find((name) => Object.entries(builtIn(name, defaults)).every(([key, value]) => near(sampling[key as keyof Tuned], value))) ??
    null
  );
}

export function sameSampling(a: SamplingSettings, b: SamplingSettings): boolean {
  return (
    near(a.temperature, b.temperature) &&
    near(a.topP, b.topP) &&
    near(a.topK, b.topK) &&
    near(a.minP, b.minP) &&
    near(a.repetitionPenalty, b.repetitionPenalty) &&
    a.maxTokens === b.maxTokens &&
    a.seed === b.seed &&
    a.systemPrompt === b.systemPrompt &&
    a.stop.length === b.stop.length &&
    a.stop.every((text, index) => text === b.stop[index])
  );
}

export const isSameName = (a: string, b: string) => a.trim().toLowerCase() === b.trim().toLowerCase();

/** The one that a person means by `name`. */
export const presetNamed = (name: string, presets: readonly Preset[]): Preset | undefined =>
  presets.find((preset) => isSameName(preset.name, name));

/** Why `name` cannot be the name of a preset; null: it can. */
export function presetNameProblem(name: string, taken: readonly string[]): 'empty' | 'long' | 'taken' | null {
  const wanted = name.trim();
  if (wanted === '') return 'empty';
  if (wanted.length > 60) return 'long';
  return taken.some((one) => isSameName(one, wanted)) ? 'taken' : null;
}

/** What a model that is loaded with `loaded` would have to be loaded again for. */
export function needsReload(loaded: OffloadSettings, wanted: OffloadSettings): boolean {
  const keys: (keyof OffloadSettings)[] = [
    'preset',
    'expertsPerLayerOnGpu',
    'misses',
    'prefetch',
    'vramBudgetBytes',
    'ramBudgetBytes',
    'contextLength',
    'threads'
  ];
  return keys.some((key) => loaded[key] !== wanted[key]);
}

const SEED_MAX = 2n ** 64n - 1n;

/** A seed is an unsigned 64-bit number, kept as text since JavaScript's numbers end at 53 bits. */
export function parseSeed(text: string): { seed: string | null } | { problem: 'number' | 'range' } {
  const typed = text.trim();
  if (typed === '') return { seed: null };
  if (!/^\d+$/.test(typed)) return { problem: 'number' };
  const value = BigInt(typed);
  return value > SEED_MAX ? { problem: 'range' } : { seed: value.toString() };
}
