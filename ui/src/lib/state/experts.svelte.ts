import { backend, type ExpertsFrame } from '$lib/backend';

/** Frames of the speed line: a minute and a half at four a second, twelve minutes at one every two. */
export const HISTORY = 360;

class Experts {
  frame = $state.raw<ExpertsFrame | null>(null);
  speeds = $state.raw<number[]>([]);
  #lastTokens = 0;

  async watch(): Promise<void> {
    await backend.watchExperts((frame) => {
      // Counted from loading: another model starts anew, and so does its line.
      if (frame.tokens < this.#lastTokens) this.speeds = [];
      this.frame = frame;
      if (frame.generating && frame.tokensPerSec !== null && frame.tokens !== this.#lastTokens) {
        this.speeds = [...this.speeds, frame.tokensPerSec].slice(-HISTORY);
      }
      this.#lastTokens = frame.tokens;
    });
  }

  unwatch(): Promise<void> {
    return backend.unwatchExperts();
  }
}

export const experts = new Experts();
