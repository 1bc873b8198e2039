import DOMPurify, { type Config } from 'dompurify';
import MarkdownIt, { type Token } from 'markdown-it';
import { direct } from './direction';
import { INLINE_HTML, inlineHtml } from './html';
import { hostOf, isMisleading, linkText } from './links';
import { formula, math } from './math';
import { markTasks } from './tasks';

/** Words that end up in the rendered text. */
export interface Labels {
  copy: string;
  code: string;
  table: string;
  image: string;
  done: string;
  open: string;
}

/** One top-level block of a text: a paragraph, a list, a fenced block. */
export interface Block {
  html: string;
}

interface Env {
  labels: Labels;
  references?: Record<string, unknown>;
  /** More text may come. */
  isGrowing?: boolean;
}

const SCHEMES = /^(?:https?:\/\/|mailto:)/i;

/** Whether the system's browser or mail program may be asked to open it. */
export const isOpenable = (url: string): boolean => SCHEMES.test(url.trim());

const markdown = createMarkdown();

function createMarkdown(): MarkdownIt {
  // Raw HTML stays text. Bare domains are not made links: file names and code look like them.
  const md = new MarkdownIt({ html: false, linkify: true });
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  md.validateLink = isOpenable;
  const escape = md.utils.escapeHtml;

  md.use(math);
  md.use(inlineHtml);

  const codeBlock = (content: string, language: string, { labels }: Env): string =>
    `<div class="code" dir="ltr"><div class="code-bar"><span>${escape(language || labels.code)}</span>` +
    `<button type="button" data-copy="">${escape(labels.copy)}</button></div>` +
    `<pre tabindex="0"><code data-language="${escape(language)}">${escape(content)}</code></pre></div>`;

  md.renderer.rules.fence = (tokens, index, _options, env: Env) => {
    const token = tokens[index];
    const language = token?.info.trim().split(/\s+/)[0] ?? '';
    if (language === 'math') return formula(md, (token?.content ?? '').trim(), '$$', 'div');
    return codeBlock(token?.content ?? '', language, env);
  };
  md.renderer.rules.code_block = (tokens, index, _options, env: Env) => codeBlock(tokens[index]?.content ?? '', '', env);

  // An image would be a request that says who reads what and when.
  md.renderer.rules.image = (tokens, index, _options, { labels }: Env) => {
    const token = tokens[index];
    const source = String(token?.attrGet('src') ?? '');
    const text = `${labels.image}: ${token?.content || source}`;
    if (!isOpenable(source)) return `<span>${escape(text)}</span>`;
    return `<a href="${escape(source)}" aria-description="${escape(source)}">${escape(text)}</a>${host(text, source)}`;
  };

  /** Where a link really leads, beside a text that says otherwise. */
  const host = (text: string, url: string): string =>
    isMisleading(text, url) ? ` <span class="host" dir="ltr">(${escape(hostOf(url))})</span>` : '';
  md.renderer.rules.link_open = (tokens, index) => {
    const url = String(tokens[index]?.attrGet('href') ?? '');
    const description = linkText(tokens, index) === url ? '' : ` aria-description="${escape(url)}"`;
    return `<a href="${escape(url)}"${description}>`;
  };
  md.renderer.rules.link_close = (tokens, index) => {
    const open = tokens.findLastIndex((token, at) => at < index && token.type === 'link_open');
    return `</a>${host(linkText(tokens, open), String(tokens[open]?.attrGet('href') ?? ''))}`;
  };
  md.renderer.rules.task = (tokens, index, _options, { labels }: Env) => {
    const isDone = tokens[index]?.content === 'x';
    return `<span class="task" role="checkbox" aria-checked="${isDone}" aria-disabled="true" aria-label="${escape(isDone ? labels.done : labels.open)}"></span> `;
  };

  md.renderer.rules.table_open = (tokens, index, _options, { labels }: Env) =>
    `<div class="table" role="region" aria-label="${escape(labels.table)}" tabindex="0"><table${md.renderer.renderAttrs(tokens[index] as Token)}>`;
  md.renderer.rules.table_close = () => '</table></div>';
  md.core.ruler.push('octet', ({ tokens, Token: TokenType }) => {
    tokens.forEach(adapt);
    markTasks(tokens, TokenType);
    direct(tokens);
  });
  return md;
}

/** Headings go below those of the window; alignment becomes a class, since the policy forbids inline style. */
function adapt(token: Token): void {
  if (token.type === 'heading_open' || token.type === 'heading_close') {
    token.tag = `h${Math.min(6, Number(token.tag.slice(1)) + 2)}`;
  }
  if (token.type === 'th_open' || token.type === 'td_open') {
    const side = /text-align:(left|center|right)/.exec(String(token.attrGet('style') ?? ''))?.[1];
    token.attrs = side ? [['class', `align-${side}`]] : null;
  }
}

const PLAIN_ATTRIBUTES =
  'class dir start type tabindex role aria-label aria-description aria-checked aria-disabled data-math data-markup data-copy data-language'.split(
    ' '
  );

// The renderer above emits nothing else. What it lets through by mistake stops here.
const ALLOWED: Config = {
  ALLOWED_TAGS: [
    ...'p br strong em s code pre blockquote ul ol li h3 h4 h5 h6 hr table thead tbody tr th td a span div button'.split(' '),
    ...INLINE_HTML
  ],
  ALLOWED_ATTR: ['href', ...PLAIN_ATTRIBUTES],
  // The pattern is held against every other attribute's value: only of href is it meant.
  ADD_URI_SAFE_ATTR: PLAIN_ATTRIBUTES,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: SCHEMES
};

export function sanitize(html: string): string {
  return DOMPurify.sanitize(html, { ...ALLOWED, RETURN_TRUSTED_TYPE: false });
}

/** The words of a block, without those of its buttons. */
export function plainText(html: string): string {
  const { body } = new DOMParser().parseFromString(html, 'text/html');
  for (const bar of body.querySelectorAll('.code-bar')) bar.remove();
  return body.textContent.trim();
}

interface TopLevel {
  firstLine: number;
  tokens: Token[];
}

function topLevel(tokens: readonly Token[]): TopLevel[] {
  const found: TopLevel[] = [];
  let open: TopLevel | undefined;
  for (const token of tokens) {
    if (token.level === 0 && token.nesting >= 0) {
      open = { firstLine: token.map?.[0] ?? 0, tokens: [] };
      found.push(open);
    }
    open?.tokens.push(token);
  }
  return found;
}

/** What may yet become the mark of one more item of a list that is not over then. */
const MARK_BEGINS = /^\s*\d{1,9}[.)]?$/;

/** Whether the last block may yet turn out to be a part of the list before it. */
const mayJoin = (before: TopLevel, lastText: string): boolean =>
  /^(?:bullet|ordered)_list_open$/.test(before.tokens[0]?.type ?? '') && MARK_BEGINS.test(lastText);

/** The offset at which line `line` (from 0) of `text` begins. */
function lineOffset(text: string, line: number): number {
  let at = 0;
  for (let n = 0; n < line; n++) {
    const end = text.indexOf('\n', at);
    if (end < 0) return text.length;
    at = end + 1;
  }
  return at;
}

/** A line of a paragraph in which nothing has a meaning of its own, and nothing gets one as more such text comes. */
const PLAIN_LINE = /^\p{L}[\p{L}\p{N} ,;.!?'’]*$/u;
const PARAGRAPH = '<p dir="auto">';
const PARAGRAPH_END = '</p>\n';

/** What the last block is with more plain text in its last line; undefined: that has to be parsed. */
function longerParagraph(html: string, before: string, text: string): string | undefined {
  const start = text.lastIndexOf('\n') + 1;
  const lineBefore = before.slice(start).trimEnd();
  const line = text.slice(start);
  if (lineBefore === '' || !PLAIN_LINE.test(line)) return undefined;
  if (!html.startsWith(PARAGRAPH) || !html.endsWith(lineBefore + PARAGRAPH_END)) return undefined;
  return html.slice(0, -PARAGRAPH_END.length) + line.slice(lineBefore.length).trimEnd() + PARAGRAPH_END;
}

/**
 * Renders a text that grows. A block is finished once another one has begun behind it that cannot become a part of it;
 * finished blocks keep their identity, and only what comes after them is parsed again.
 */
export class GrowingMarkdown {
  #finished: Block[] = [];
  #finishedChars = 0;
  #text = '';
  #env: Env;
  #last: Block | undefined;

  constructor(private readonly labels: Labels) {
    this.#env = { labels, isGrowing: true };
  }

  /** How many of the blocks stay as they are. */
  get finished(): number {
    return this.#finished.length;
  }

  render(text: string): Block[] {
    if (!text.startsWith(this.#text)) this.#reset();
    const textBefore = this.#text;
    this.#text = text;
    const longer = this.#last && longerParagraph(this.#last.html, textBefore, text);
    if (longer !== undefined) return this.#withLast({ html: longer });
    const tail = text.slice(this.#finishedChars);
    const blocks = topLevel(markdown.parse(tail, this.#env));
    const last = blocks.at(-1);
    if (!last) return [...this.#finished];
    const before = blocks.at(-2);
    const isOpen = before !== undefined && mayJoin(before, tail.slice(lineOffset(tail, last.firstLine)));
    const open = blocks.splice(isOpen ? -2 : -1);
    for (const block of blocks) this.#finished.push(this.#html(block));
    if (blocks.length > 0) this.#finishedChars += lineOffset(tail, open[0]?.firstLine ?? 0);
    if (!isOpen) return this.#withLast(this.#html(last));
    this.#last = undefined;
    return [...this.#finished, ...open.map((block) => this.#html(block))];
  }

  #withLast(block: Block): Block[] {
    if (this.#last?.html !== block.html) this.#last = block;
    return [...this.#finished, this.#last];
  }

  #html(block: TopLevel): Block {
    return { html: sanitize(markdown.renderer.render(block.tokens, markdown.options, this.#env)) };
  }

  #reset(): void {
    this.#finished = [];
    this.#finishedChars = 0;
    this.#last = undefined;
    this.#env = { labels: this.labels, isGrowing: true };
  }
}

/** Renders a whole text, references that come after their use included. */
export function renderMarkdown(text: string, labels: Labels): Block[] {
  const env: Env = { labels };
  return topLevel(markdown.parse(text, env)).map((block) => ({
    html: sanitize(markdown.renderer.render(block.tokens, markdown.options, env))
  }));
}
