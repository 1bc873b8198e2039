import type { ExpertsFrame } from '$lib/backend';

export type Place = 'vram' | 'ram' | 'disk';

export interface Cell {
  layer: number;
  expert: number;
  place: Place;
  use: 'none' | 'used' | 'missed';
}

const PLACES: Record<string, Place> = { v: 'vram', r: 'ram', d: 'disk' };

/**
 * One cell an expert, layer by layer, as the frame orders them. A cell that is as it was in `before` is that one: what
 * is the same is not drawn again.
 */
export function cells(frame: ExpertsFrame, before: readonly Cell[] = []): Cell[] {
  const used = new Set(frame.used);
  const missed = new Set(frame.missed);
  return Array.from({ length: frame.nLayers * frame.nExperts }, (_, index) => {
    const layer = Math.floor(index / frame.nExperts);
    const expert = index % frame.nExperts;
    const place = PLACES[frame.where[index] ?? 'd'] ?? 'disk';
    const use = missed.has(index) ? 'missed' : used.has(index) ? 'used' : 'none';
    const old = before[index];
    const isSame = old?.layer === layer && old.expert === expert && old.place === place && old.use === use;
    return isSame ? old : { layer, expert, place, use };
  });
}

/** Each expert's uses as a share of the most used one's, 0 to 1. */
export function heats({ counts }: Pick<ExpertsFrame, 'counts'>): number[] {
  const most = Math.max(1, ...counts);
  return counts.map((count) => count / most);
}

export interface Totals {
  /** Of demands, those that the cache met: what prefetch had to read in time counts apart. */
  keptRate: number | null;
  kept: number;
  prefetched: number;
  demands: number;
  prefetchRight: number | null;
  bytesPerToken: number | null;
}

/** What the counters come to; null where nothing was counted yet. */
export function totals(frame: ExpertsFrame): Totals {
  const { hits, misses, prefetches, prefetchHits, bytesMoved } = frame.totals;
  const demands = hits + misses;
  const kept = Math.max(0, hits - prefetchHits);
  return {
    keptRate: demands > 0 ? kept / demands : null,
    kept,
    prefetched: hits - kept,
    demands,
    prefetchRight: prefetches > 0 ? prefetchHits / prefetches : null,
    bytesPerToken: frame.tokens > 0 ? bytesMoved / frame.tokens : null
  };
}

export function placesOf(frame: Pick<ExpertsFrame, 'where'>): Record<Place, number> {
  const count = { vram: 0, ram: 0, disk: 0 };
  for (const letter of frame.where) count[PLACES[letter] ?? 'disk']++;
  return count;
}

/** The cell that an arrow key leads to in a grid of `rows` by `columns`; null: not a key of the grid. */
export function moveInGrid(
  key: string,
  row: number,
  column: number,
  rows: number,
  columns: number,
  isCtrl = false
): [number, number] | null {
  switch (key) {
    case 'ArrowUp':
      return [Math.max(0, row - 1), column];
    case 'ArrowDown':
      return [Math.min(rows - 1, row + 1), column];
    case 'ArrowLeft':
      return [row, Math.max(0, column - 1)];
    case 'ArrowRight':
      return [row, Math.min(columns - 1, column + 1)];
    case 'Home':
      return isCtrl ? [0, 0] : [row, 0];
    case 'End':
      return isCtrl ? [rows - 1, columns - 1] : [row, columns - 1];
    case 'PageUp':
      return [0, column];
    case 'PageDown':
      return [rows - 1, column];
    default:
      return null;
  }
}

/** Points of a line over `values`, scaled to `width` by `height`, for an SVG polyline. */
export function linePoints(values: readonly number[], capacity: number, width: number, height: number): string {
  const top = Math.max(1e-9, ...values);
  const step = width / Math.max(1, capacity - 1);
  const start = width - step * (values.length - 1);
  return values.map((value, index) => `${(start + index * step).toFixed(1)},${(height - (value / top) * height).toFixed(1)}`).join(' ');
}
