/** A timer stands still while the machine sleeps, so that midnight is looked for, not waited for. */
const LOOK_EVERY_MS = 30_000;

/** The day that it is: what is dated by it is drawn again at midnight. */
class Today {
  now = $state.raw(new Date());

  constructor() {
    setInterval(() => this.look(), LOOK_EVERY_MS);
    window.addEventListener('focus', () => this.look());
    document.addEventListener('visibilitychange', () => this.look());
  }

  look(): void {
    const now = new Date();
    if (now.toDateString() !== this.now.toDateString()) this.now = now;
  }
}

export const today = new Today();
