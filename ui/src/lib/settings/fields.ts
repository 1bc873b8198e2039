import type { SamplingSettings } from '$lib/backend';
import type { Key } from '$lib/i18n/index.svelte';

export interface NumberField {
  key: 'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty';
  min: number;
  max: number;
  step: number;
  digits: number;
  /** The value that means something else than its number. */
  special: Special;
}

/** What a value means, where its number does not say it. */
export interface Special {
  at: number;
  key: Key;
}

/** The sampling settings that are a number in a range, in the order in which they are shown. */
export const NUMBER_FIELDS: readonly NumberField[] = [
  { key: 'temperature', min: 0, max: 2, step: 0.05, digits: 2, special: { at: 0, key: 'sampling.likeliest' } },
  { key: 'topP', min: 0, max: 1, step: 0.01, digits: 2, special: { at: 1, key: 'common.off' } },
  { key: 'topK', min: 0, max: 200, step: 1, digits: 0, special: { at: 0, key: 'sampling.noLimit' } },
  { key: 'minP', min: 0, max: 1, step: 0.01, digits: 2, special: { at: 0, key: 'common.off' } },
  { key: 'repetitionPenalty', min: 1, max: 2, step: 0.01, digits: 2, special: { at: 1, key: 'common.off' } }
] satisfies readonly (NumberField & { key: keyof SamplingSettings })[];

export const clamp = (value: number, min: number, max: number): number => Math.min(max, Math.max(min, value));

/** The step next to `value`, counted from `min`. */
export function snap(value: number, min: number, max: number, step: number): number {
  const steps = Math.round((clamp(value, min, max) - min) / step);
  return clamp(Number((min + steps * step).toFixed(6)), min, max);
}

/** A number typed by a person, with a point or a comma; null when it is none. */
export function parseNumber(text: string): number | null {
  const typed = text.trim().replace(',', '.');
  if (!/^[+-]?(?:\d+\.?\d*|\.\d+)$/.test(typed)) return null;
  return Number(typed);
}
