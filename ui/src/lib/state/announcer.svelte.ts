/** Lines that are kept: a screen reader reads those that are added. */
const KEPT = 20;

/** What a screen reader is told, politely, about things that change elsewhere than at the focus. */
class Announcer {
  lines = $state.raw<{ id: number; text: string }[]>([]);
  #lastId = 0;

  say(text: string): void {
    const spoken = text.trim();
    if (spoken !== '') this.lines = [...this.lines, { id: ++this.#lastId, text: spoken }].slice(-KEPT);
  }
}

export const announcer = new Announcer();
