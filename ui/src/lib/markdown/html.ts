import type MarkdownIt from 'markdown-it';
import type { StateInline } from 'markdown-it';

/** Elements that models write as HTML, where Markdown has nothing for it. Any other, and any with an attribute, stays text. */
export const INLINE_HTML = 'b del em i ins kbd mark s small strong sub sup u var'.split(' ');

const TAG = new RegExp(`<(${INLINE_HTML.join('|')})>`, 'iy');
/** Elements in one another. */
const MAX_DEPTH = 20;

const BREAK = /<br\s*\/?>/iy;

export function inlineHtml(md: MarkdownIt): void {
  md.inline.ruler.before('autolink', 'inline_html', rule);
}

function rule(state: StateInline, silent: boolean): boolean {
  if (state.src[state.pos] !== '<') return false;
  BREAK.lastIndex = state.pos;
  const line = BREAK.exec(state.src);
  if (line) {
    if (!silent) state.push('hardbreak', 'br', 0);
    state.pos += line[0].length;
    return true;
  }
  TAG.lastIndex = state.pos;
  const [opening, name = ''] = TAG.exec(state.src) ?? [];
  return opening !== undefined && pair(state, silent, opening.length, name.toLowerCase());
}

/** An element with what is in it; one that is never closed is text. */
function pair(state: StateInline, silent: boolean, opening: number, name: string): boolean {
  const { pos: start, posMax: limit } = state;
  if (state.level >= MAX_DEPTH) return false;
  const closing = `</${name}>`;
  const isClosed = (at: number) => state.src.slice(at, at + closing.length).toLowerCase() === closing;
  if (!state.src.toLowerCase().includes(closing, start)) return false;
  state.pos = start + opening;
  while (state.pos < limit && !isClosed(state.pos)) state.md.inline.skipToken(state);
  const end = state.pos;
  state.pos = start;
  if (end >= limit) return false;
  if (!silent) {
    state.pos = start + opening;
    state.posMax = end;
    state.push(`${name}_open`, name, 1);
    state.md.inline.tokenize(state);
    state.push(`${name}_close`, name, -1);
    state.posMax = limit;
  }
  state.pos = end + closing.length;
  return true;
}
