import type { ExpertsFrame, ModelState } from '../bindings';
import { seeded } from './random';

/** Routes tokens as a model does, roughly: an expert that was just used is likely to be used again. */
export class FakeRouter {
  frame: ExpertsFrame;
  #random = seeded(11);

  constructor(state: ModelState) {
    const plan = state.type === 'ready' ? state.plan : null;
    const nLayers = plan?.nLayers ?? 0;
    const nExperts = plan?.nExperts ?? 0;
    let inRam = plan?.expertsInRam ?? 0;
    const where = Array.from({ length: nLayers * nExperts }, (_, index) => {
      const rank = (index * 5 + Math.floor(index / 8) * 3) % nExperts;
      if (plan && rank < plan.expertsPerLayerOnGpu) return 'v';
      return inRam-- > 0 && this.#random() > 0.04 ? 'r' : 'd';
    }).join('');
    this.frame = {
      nLayers,
      nExperts,
      topK: 2,
      where,
      used: [],
      missed: [],
      counts: Array.from({ length: where.length }, () => 0),
      totals: { hits: 0, misses: 0, prefetches: 0, prefetchHits: 0, prefetchWasted: 0, bytesMoved: 0, waitMs: 0 },
      tokensPerSec: null,
      generating: false,
      tokens: 0,
      keptFromPrevious: null
    };
  }

  /** Makes a token; returns the experts that the last layer chose. */
  token(tokensPerSec: number): number[] {
    const { nLayers, nExperts, where } = this.frame;
    const before = new Set(this.frame.used);
    const used: number[] = [];
    for (let layer = 0; layer < nLayers; layer++) {
      const kept = [...before].find((index) => Math.floor(index / nExperts) === layer && this.#random() < 0.5);
      const chosen = new Set<number>(kept === undefined ? [] : [kept]);
      while (chosen.size < 2) chosen.add(layer * nExperts + Math.floor(this.#random() ** 1.5 * nExperts));
      used.push(...chosen);
    }
    const fastest = where.includes('v') ? 'v' : 'r';
    const missed = used.filter((index) => where[index] !== fastest);
    const counts = [...this.frame.counts];
    for (const index of used) counts[index] = (counts[index] ?? 0) + 1;
    const totals = { ...this.frame.totals };
    totals.hits += used.length - missed.length;
    totals.misses += missed.length;
    totals.prefetches += missed.length;
    totals.prefetchHits += Math.round(missed.length * 0.88);
    totals.prefetchWasted = totals.prefetches - totals.prefetchHits;
    totals.bytesMoved += missed.length * 66.4e6 * 0.2;
    this.frame = {
      ...this.frame,
      used,
      missed,
      counts,
      totals,
      tokensPerSec: tokensPerSec * (0.92 + 0.16 * this.#random()),
      generating: true,
      tokens: this.frame.tokens + 1,
      keptFromPrevious: used.filter((index) => before.has(index)).length / Math.max(1, used.length)
    };
    return used.slice(-2).map((index) => index % nExperts);
  }

  rest(): void {
    this.frame = { ...this.frame, generating: false, used: [], missed: [] };
  }
}
