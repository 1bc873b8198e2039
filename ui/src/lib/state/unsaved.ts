const SAVE_AFTER_MS = 400;

const all = new Set<Keeper>();

/** What a field says on its way to the disk: a moment after the last key, or at once when the window goes away. */
export class Keeper {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isDirty = false;
  #writing: Promise<void> = Promise.resolve();

  /** `take` reads what there is to write now, and returns what writes it. */
  constructor(private readonly take: () => () => Promise<unknown>) {}

  get isDirty(): boolean {
    return this.#isDirty;
  }

  changed(): void {
    this.#isDirty = true;
    all.add(this);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.flush(), SAVE_AFTER_MS);
  }

  /** Resolves when all is written. One write follows the other: two at once could end in any order. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#isDirty) {
      this.#isDirty = false;
      const write = this.take();
      // Not worth a message while one types; the next change tries again.
      this.#writing = this.#writing.then(write).then(
        () => void (this.#isDirty || all.delete(this)),
        () => void (this.#isDirty = true)
      );
    }
    return this.#writing;
  }
}

/** Writes what is not written yet, of all fields. */
export async function flushAll(): Promise<void> {
  await Promise.all([...all].map((keeper) => keeper.flush()));
}
