import { formulaOf } from '$lib/markdown/enhance';
import { sanitize } from '$lib/markdown/render';

/** What is on the page for its use, not part of what was said. */
const NOT_SAID = 'button, .code-bar, .tools, .stats, .ring, .hidden-text, .host';
const FORMULA = '.math';
/** White space is part of the text. */
const PREFORMATTED = 'pre, .bubble';

/** Between their parts is white space that means nothing. */
const NO_TEXT = 'ol, table, tbody, thead, tr, ul';

/** Lines between what is before and after such an element, at least. */
const LINES_AROUND: Record<string, number> = {
  ARTICLE: 2,
  BLOCKQUOTE: 2,
  DIV: 1,
  H3: 2,
  H4: 2,
  H5: 2,
  H6: 2,
  HR: 2,
  LI: 1,
  OL: 2,
  P: 2,
  PRE: 2,
  TABLE: 2,
  TR: 1,
  UL: 2
};

/** Selects all that is on the page of the chat that is shown. */
export function selectThread(): void {
  const rows = document.querySelector('.thread .rows');
  if (rows) getSelection()?.selectAllChildren(rows);
}

/** A formula is one thing: who has a part of it has all of it. */
function wholeFormulas(range: Range): Range {
  const whole = range.cloneRange();
  const formulaAt = (node: Node) => (node instanceof Element ? node : node.parentElement)?.closest(FORMULA);
  const first = formulaAt(range.startContainer);
  const last = formulaAt(range.endContainer);
  if (first) whole.setStartBefore(first);
  if (last) whole.setEndAfter(last);
  return whole;
}

/** Text as it grows by pieces, with the lines between them. */
class Lines {
  text = '';
  #wanted = 0;
  #isMarked = false;

  /** What comes next begins so many lines below. */
  break(count: number): void {
    if (this.text !== '' && !this.#isMarked) this.#wanted = Math.max(this.#wanted, count);
  }

  add(piece: string): void {
    if (piece === '') return;
    if (this.#wanted > 0) {
      const there = /\n*$/.exec(this.text)?.[0].length ?? 0;
      this.text = this.text.trimEnd() + '\n'.repeat(Math.max(there, this.#wanted));
      this.#wanted = 0;
    }
    this.text += piece;
    this.#isMarked = false;
  }

  /** The mark of an item, with which its first line begins. */
  mark(mark: string): void {
    this.add(mark);
    this.#isMarked = true;
  }

  tab(): void {
    if (this.text !== '') this.add('\t');
  }

  /** Of white space one at most, and none where a line begins. */
  flow(words: string): void {
    const collapsed = words.replace(/\s+/g, ' ');
    const isLineStart = this.#wanted > 0 || this.text === '' || /\s$/.test(this.text);
    this.add(isLineStart ? collapsed.replace(/^ /, '') : collapsed);
  }
}

class Reader {
  readonly lines = new Lines();

  constructor(private readonly range: Range) {}

  read(node: Node, depth = 0): void {
    if (!this.range.intersectsNode(node)) return;
    if (node instanceof Text) this.#text(node);
    else if (node instanceof Element && !node.matches(NOT_SAID)) this.#element(node, depth);
  }

  #text(node: Text): void {
    const { range } = this;
    if (node.parentElement?.matches(NO_TEXT)) return;
    const start = node === range.startContainer ? range.startOffset : 0;
    const end = node === range.endContainer ? range.endOffset : node.data.length;
    const text = node.data.slice(start, end);
    if (node.parentElement?.closest(PREFORMATTED)) this.lines.add(text);
    else this.lines.flow(text);
  }

  #element(element: Element, depth: number): void {
    const { lines } = this;
    const formula = element.matches(FORMULA) ? formulaOf(element) : undefined;
    if (formula !== undefined) {
      lines.add(formula);
    } else if (element.tagName === 'BR') {
      lines.add('\n');
    } else if (element.matches('.task')) {
      lines.add(element.getAttribute('aria-checked') === 'true' ? '[x] ' : '[ ] ');
    } else {
      const isList = element.matches('ul, ol');
      const around = isList && depth > 0 ? 1 : (LINES_AROUND[element.tagName] ?? 0);
      lines.break(around);
      if (element.matches('li')) this.#marker(element, depth);
      if (element.matches('td, th') && element.previousElementSibling) lines.tab();
      for (const child of element.childNodes) this.read(child, isList ? depth + 1 : depth);
      lines.break(around);
    }
  }

  /** Not where the selection begins in the middle of the item. */
  #marker(item: Element, depth: number): void {
    if (item.contains(this.range.startContainer) && this.range.startContainer !== item) return;
    const list = item.parentElement;
    const at = [...(list?.children ?? [])].indexOf(item);
    const marker = list instanceof HTMLOListElement ? `${list.start + at}.` : '-';
    this.lines.mark(`${'  '.repeat(Math.max(0, depth - 1))}${marker} `);
  }
}

const isWithin = (range: Range, place: Element) => range.intersectsNode(place) && !range.collapsed;

/**
 * What copying `range` gives: formulas as they were written, once, and nothing of the page's own words. Undefined
 * where nothing of `place` is selected.
 */
export function copied(range: Range, place: Element): { text: string; html: string } | undefined {
  if (!isWithin(range, place)) return undefined;
  const whole = wholeFormulas(range);
  const { commonAncestorContainer: around } = whole;
  const reader = new Reader(whole);
  reader.read(around);
  return { text: reader.lines.text.replace(/\n+$/, ''), html: htmlOf(whole) };
}

function htmlOf(range: Range): string {
  const { commonAncestorContainer: around } = range;
  const scope = around instanceof Element ? around : around.parentElement;
  const formulas = [...(scope?.querySelectorAll(FORMULA) ?? [])].filter((one) => range.intersectsNode(one));
  const box = document.createElement('div');
  box.append(range.cloneContents());
  for (const [index, formula] of [...box.querySelectorAll(FORMULA)].entries()) {
    const live = formulas[index];
    const source = live && formulaOf(live);
    if (source !== undefined) formula.replaceWith(source);
  }
  for (const element of box.querySelectorAll(NOT_SAID)) element.remove();
  // To read it again would break the content policy.
  for (const element of box.querySelectorAll('[style]')) element.removeAttribute('style');
  return sanitize(box.innerHTML);
}
