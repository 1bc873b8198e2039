/** What arrived since the last frame, as one. */
export interface Arrived<T> {
  text: string;
  latest: T;
}

type Schedule = (callback: () => void) => number;
type Cancel = (handle: number) => void;

/**
 * Collects pieces of text and hands them on at most once a frame, so that drawing keeps up with any stream.
 * `flush` hands on what waits at once: before an event that ends the text.
 */
export class FrameBuffer<T> {
  #text = '';
  #latest: T | undefined;
  #handle: number | undefined;

  constructor(
    private readonly apply: (arrived: Arrived<T>) => void,
    private readonly schedule: Schedule = (callback) => requestAnimationFrame(callback),
    private readonly cancel: Cancel = (handle) => cancelAnimationFrame(handle)
  ) {}

  push(text: string, latest: T): void {
    this.#text += text;
    this.#latest = latest;
    this.#handle ??= this.schedule(() => this.flush());
  }

  flush(): void {
    if (this.#handle !== undefined) this.cancel(this.#handle);
    this.#handle = undefined;
    if (this.#latest === undefined) return;
    const arrived = { text: this.#text, latest: this.#latest };
    this.#text = '';
    this.#latest = undefined;
    this.apply(arrived);
  }
}
