import { describe, expect, it } from 'vitest';
import type { ExpertsFrame } from '$lib/backend';
import { cells, heats, linePoints, moveInGrid, placesOf, totals } from './cells';

const frame: ExpertsFrame = {
  nLayers: 2,
  nExperts: 4,
  topK: 2,
  where: 'vvrdrrrr',
  used: [0, 2, 5, 6],
  missed: [2, 5, 6],
  counts: [8, 0, 4, 0, 0, 2, 2, 0],
  totals: { hits: 3, misses: 1, prefetches: 0, prefetchHits: 0, prefetchWasted: 0, bytesMoved: 400, waitMs: 0 },
  tokensPerSec: 10,
  generating: true,
  tokens: 4,
  keptFromPrevious: 0.5
};

describe('the grid of experts', () => {
  it('has one cell an expert, layer by layer', () => {
    const all = cells(frame);
    expect(all).toHaveLength(8);
    expect(all[5]).toEqual({ layer: 1, expert: 1, place: 'ram', use: 'missed' });
    expect(all[0]).toMatchObject({ place: 'vram', use: 'used' });
    expect(all[3]).toMatchObject({ place: 'disk', use: 'none' });
    expect(placesOf(frame)).toEqual({ vram: 2, ram: 5, disk: 1 });
    expect(heats(frame)).toEqual([1, 0, 0.5, 0, 0, 0.25, 0.25, 0]);
  });

  it('bears a frame that is shorter than it should be', () => {
    expect(cells({ ...frame, where: 'v', counts: [] })[7]).toMatchObject({ place: 'disk', use: 'none' });
  });

  it('keeps the cells that are as they were', () => {
    const before = cells(frame);
    const after = cells({ ...frame, used: [1, 2, 5, 6], counts: [9, 1, 5, 0, 0, 3, 3, 0] }, before);
    expect(after.map((cell, index) => cell === before[index])).toEqual([false, false, true, true, true, true, true, true]);
    expect(after[0]?.use).toBe('none');
    expect(cells({ ...frame, nExperts: 2, nLayers: 4 }, before)[2]).toMatchObject({ layer: 1, expert: 0 });
  });

  it('is walked with the arrow keys and never left', () => {
    expect(moveInGrid('ArrowRight', 0, 0, 8, 32)).toEqual([0, 1]);
    expect(moveInGrid('ArrowUp', 0, 5, 8, 32)).toEqual([0, 5]);
    expect(moveInGrid('ArrowDown', 7, 5, 8, 32)).toEqual([7, 5]);
    expect(moveInGrid('End', 3, 0, 8, 32)).toEqual([3, 31]);
    expect(moveInGrid('End', 3, 0, 8, 32, true)).toEqual([7, 31]);
    expect(moveInGrid('Tab', 3, 0, 8, 32)).toBeNull();
  });
});

describe('totals', () => {
  it('are shares of what was counted, and nothing where nothing was', () => {
    expect(totals(frame)).toEqual({ keptRate: 0.75, kept: 3, prefetched: 0, demands: 4, prefetchRight: null, bytesPerToken: 100 });
    const fresh = { ...frame, tokens: 0, totals: { ...frame.totals, hits: 0, misses: 0 } };
    expect(totals(fresh)).toMatchObject({ keptRate: null, prefetchRight: null, bytesPerToken: null });
  });

  // "Found in RAM 100%" stood beside "read from disk 1.3 GB".
  it('count what prefetch brought apart from what was there', () => {
    const ahead = { ...frame, totals: { ...frame.totals, hits: 10, misses: 0, prefetches: 5, prefetchHits: 4 } };
    expect(totals(ahead)).toMatchObject({ keptRate: 0.6, kept: 6, prefetched: 4, demands: 10, prefetchRight: 0.8 });
  });
});

describe('the line of speeds', () => {
  it('grows in from the right and fits the height', () => {
    expect(linePoints([1, 2], 11, 100, 10)).toBe('90.0,5.0 100.0,0.0');
    expect(linePoints([], 11, 100, 10)).toBe('');
    expect(linePoints([0, 0], 2, 100, 10)).toBe('0.0,10.0 100.0,10.0');
  });
});
