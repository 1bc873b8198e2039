import type MarkdownIt from 'markdown-it';
import type { StateBlock, StateInline } from 'markdown-it';

/**
 * Formulas in four notations: `$x$` and `\(x\)` within a line, `$$x$$` and `\[x\]` on lines of their own, where they
 * also may stand within a line. A dollar is money, a shell variable or a formula; the rules are those of pandoc and GitHub:
 * what opens a formula touches what is inside and nothing before it, and what closes it likewise. No formula goes beyond
 * its paragraph, so one that is never closed stays text, and so does all behind it.
 */
export function math(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math', inlineRule);
  md.block.ruler.after('blockquote', 'math_block', blockRule, { alt: ['paragraph', 'reference', 'blockquote', 'list'] });
  md.renderer.rules.math = (tokens, index) => formula(md, tokens[index]?.content ?? '', tokens[index]?.markup ?? '$', 'span');
  md.renderer.rules.math_block = (tokens, index) => formula(md, tokens[index]?.content ?? '', tokens[index]?.markup ?? '$$', 'div');
  // Nothing is drawn before its end has come.
  md.renderer.rules.math_open = (tokens, index) =>
    `<div class="math-source" dir="ltr">${md.utils.escapeHtml(tokens[index]?.content ?? '')}</div>`;
}

/** The place of a formula, to be drawn later. */
export function formula(md: MarkdownIt, source: string, markup: string, tag: 'span' | 'div'): string {
  const isDisplay = markup === '$$' || markup === '\\[';
  const attributes = `class="math${isDisplay ? ' math-display' : ''}" dir="ltr" data-math="${isDisplay ? 'display' : 'inline'}"`;
  return `<${tag} ${attributes} data-markup="${md.utils.escapeHtml(markup)}">${md.utils.escapeHtml(source)}</${tag}>`;
}

/** What closes each markup. */
const CLOSERS: Record<string, string> = { $: '$', $$: '$$', '\\(': '\\)', '\\[': '\\]' };

/** A formula as it was written. */
export const asWritten = (source: string, markup: string): string => `${markup}${source}${CLOSERS[markup] ?? ''}`;

const WORD = /[A-Za-z0-9_]/;
const SPACE = /\s/;
/** The end of a word that begins with a formula: the $n$th. */
const SUFFIX = /^(?:st|nd|rd|th|s)?(?![A-Za-z0-9_{])/;

function inlineRule(state: StateInline, silent: boolean): boolean {
  const { src, pos } = state;
  const found = src[pos] === '$' ? dollars(src, pos) : src[pos] === '\\' ? brackets(src, pos) : undefined;
  if (!found || found.end > state.posMax) return false;
  if (!silent) {
    const token = state.push('math', '', 0);
    token.content = found.content;
    token.markup = found.markup;
  }
  state.pos = found.end;
  return true;
}

interface Found {
  content: string;
  markup: string;
  end: number;
}

function dollars(src: string, start: number): Found | undefined {
  const before = src[start - 1] ?? ' ';
  if (WORD.test(before) || before === '$') return undefined;
  return src[start + 1] === '$' ? doubleDollars(src, start) : singleDollars(src, start);
}

function singleDollars(src: string, start: number): Found | undefined {
  if (SPACE.test(src[start + 1] ?? ' ')) return undefined;
  const close = findClose(src, start + 1, '$');
  if (close < 0 || SPACE.test(src[close - 1] ?? ' ')) return undefined;
  const content = src.slice(start + 1, close);
  const rest = src.slice(close + 1, close + 4);
  if (!SUFFIX.test(rest) || rest.startsWith('$') || isMoney(content) || isShell(content, rest)) return undefined;
  return { content, markup: '$', end: close + 1 };
}

function doubleDollars(src: string, start: number): Found | undefined {
  if (src[start + 2] === '$') return undefined;
  const close = findClose(src, start + 2, '$$');
  const content = src.slice(start + 2, close);
  if (close < 0 || src[close + 2] === '$' || content.trim() === '' || isProse(content)) return undefined;
  return { content, markup: '$$', end: close + 2 };
}

function brackets(src: string, start: number): Found | undefined {
  const markup = src.slice(start, start + 2);
  if (markup !== '\\(' && markup !== '\\[') return undefined;
  const close = findClose(src, start + 2, CLOSERS[markup] ?? '');
  const content = src.slice(start + 2, close);
  if (close < 0 || content.trim() === '') return undefined;
  if (markup === '\\[' && isBracketed(content, src[start - 1] ?? ' ', src[close + 2] ?? ' ')) return undefined;
  return { content, markup, end: close + 2 };
}

/** Where `closer` ends a formula that begins at `from`. Braces hold text that may have dollars; a span of code ends the search. */
function findClose(src: string, from: number, closer: string): number {
  let depth = 0;
  for (let at = from; at < src.length; at++) {
    const char = src[at];
    if (depth <= 0 && src.startsWith(closer, at)) return at;
    if (char === '\\') at++;
    else if (char === '{') depth++;
    else if (char === '}') depth--;
    else if (char === '`' && opensCode(src, at)) return -1;
  }
  return -1;
}

/** Whether the backticks at `at` are closed by as many. */
function opensCode(src: string, at: number): boolean {
  const ticks = /^`+/.exec(src.slice(at))?.[0] ?? '`';
  const rest = src.slice(at + ticks.length);
  return rest.match(/`+/g)?.includes(ticks) ?? false;
}

const withoutCommands = (content: string): string => content.replace(/\\[a-z]+\s*|\{[^{}]*\}/gi, ' ');

/** An amount, and the words up to the next one: $20 or 30$. */
const isMoney = (content: string): boolean => /^\d/.test(content) && /\s\p{L}{2,}(?![\p{L}(_^=])/u.test(withoutCommands(content));

/** Two substitutions of a shell, one behind the other: $(a)$(b). */
const isShell = (content: string, rest: string): boolean => content.startsWith('(') && rest.startsWith('(');

/** Words alone, between two signs that stand for themselves. */
const isProse = (content: string): boolean =>
  SPACE.test(content[0] ?? '') && /^[\p{L}\s,.;:'’"!?()-]*\p{L}{2,}[\p{L}\s,.;:'’"!?()-]*$/u.test(content);

/** Brackets that were escaped because links have them: of an index, a number, words, the text of a link. */
const isBracketed = (content: string, before: string, after: string): boolean =>
  WORD.test(before) || after === '(' || /^\d+$/.test(content) || /^(?=.*\p{L}{3})[\p{L}\s,.;:'’"!?-]*$/u.test(content);

const OPENERS = ['$$', '\\['] as const;

/** A formula that begins a line and ends one, with no empty line in it. */
function blockRule(state: StateBlock, startLine: number, endLine: number, silent: boolean): boolean {
  if ((state.sCount[startLine] ?? 0) - state.blkIndent >= 4) return false;
  const textOf = (line: number) => state.src.slice((state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0), state.eMarks[line]);
  const first = textOf(startLine);
  const markup = OPENERS.find((opener) => first.startsWith(opener));
  if (!markup || first.startsWith('$$$')) return false;
  const closer = CLOSERS[markup] ?? '';
  const lines: string[] = [];
  for (let line = startLine; line < endLine; line++) {
    const text = line === startLine ? first.slice(2) : textOf(line);
    const isOutside = line > startLine && (state.sCount[line] ?? 0) < state.blkIndent;
    if (isOutside || (text.trim() === '' && line > startLine)) return false;
    const end = findClose(text, 0, closer);
    if (end >= 0) {
      // What follows it in the line makes it a part of a paragraph.
      if (text.slice(end + 2).trim() !== '') return false;
      lines.push(text.slice(0, end));
      const content = lines.join('\n').trim();
      if (content === '') return false;
      if (!silent) push(state, 'math_block', content, markup, startLine, line + 1);
      return true;
    }
    lines.push(text);
  }
  const { isGrowing } = state.env as { isGrowing?: boolean };
  if (!isGrowing || state.level > 0) return false;
  if (!silent) push(state, 'math_open', markup + lines.join('\n'), markup, startLine, endLine);
  return true;
}

function push(state: StateBlock, type: string, content: string, markup: string, from: number, to: number): void {
  state.line = to;
  const token = state.push(type, '', 0);
  token.block = true;
  token.content = content;
  token.markup = markup;
  token.map = [from, to];
}
