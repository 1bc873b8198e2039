import { asWritten } from './math';

type Katex = typeof import('katex').default;
type Highlighter = typeof import('highlight.js/lib/common').default;

let katex: Katex | undefined;
let highlighter: Highlighter | undefined;

async function loadKatex(): Promise<Katex> {
  const [module] = await Promise.all([import('katex'), import('katex/dist/katex.min.css')]);
  katex = module.default;
  return katex;
}

async function loadHighlighter(): Promise<Highlighter> {
  highlighter = (await import('highlight.js/lib/common')).default;
  return highlighter;
}

/** What formulas and code that was coloured look like without it. */
const sources = new WeakMap<Element, string>();

/** The text that `element` was drawn from. */
export const sourceOf = (element: Element): string | undefined => sources.get(element);

/** A formula as it was written, with its marks. */
export function formulaOf(element: Element): string | undefined {
  const markup = element.getAttribute('data-markup');
  return markup === null ? undefined : asWritten(sources.get(element) ?? element.textContent ?? '', markup);
}

function drawMath(elements: readonly HTMLElement[], renderer: Katex): void {
  for (const element of elements) {
    const source = element.textContent ?? '';
    sources.set(element, source);
    try {
      // Drawn into the element rather than to HTML: that sets styles as the content policy allows.
      renderer.render(source, element, {
        displayMode: element.dataset.math === 'display',
        throwOnError: true,
        strict: false,
        trust: false,
        maxSize: 20,
        maxExpand: 200
      });
    } catch {
      element.textContent = asWritten(source, element.dataset.markup ?? '');
      element.classList.add('math-source');
    }
    delete element.dataset.math;
  }
}

function colourCode(elements: readonly HTMLElement[], colours: Highlighter, isStreaming: boolean): void {
  for (const element of elements) {
    const language = element.dataset.language ?? '';
    delete element.dataset.language;
    if (!colours.getLanguage(language)) continue;
    const source = element.textContent ?? '';
    sources.set(element, source);
    const colour = (part: HTMLElement) => {
      part.innerHTML = colours.highlight(part.textContent ?? '', { language, ignoreIllegals: true }).value;
    };
    // What is drawn anew for every frame would flicker.
    if (isStreaming || spend(source.length)) colour(element);
    else colourInSight(element, piecesOf(source), colour);
  }
}

/** What is coloured at once: some hundred lines. Thousands would take seconds, for text that nobody sees yet. */
export const PIECE_CHARS = 8_000;

let spentChars = 0;

/** Whether so much may be coloured before the next frame. */
function spend(chars: number): boolean {
  if (spentChars + chars > PIECE_CHARS) return false;
  if (spentChars === 0) requestAnimationFrame(() => (spentChars = 0));
  spentChars += chars;
  return true;
}

/**
 * Cuts code at the ends of lines, where it can behind an empty one: colours are found piece by piece, and what goes
 * over several lines is rarely cut there.
 */
export function piecesOf(source: string): string[] {
  const pieces: string[] = [];
  let rest = source;
  while (rest.length > PIECE_CHARS) {
    const most = rest.slice(0, PIECE_CHARS);
    const gap = most.lastIndexOf('\n\n') + 2;
    const line = most.lastIndexOf('\n') + 1;
    const end = gap > PIECE_CHARS / 2 ? gap : line > 1 ? line : PIECE_CHARS;
    pieces.push(rest.slice(0, end));
    rest = rest.slice(end);
  }
  return rest === '' ? pieces : [...pieces, rest];
}

/** So far beyond the window, pieces are coloured before they come into sight. */
const AHEAD = '800px 0px';

/** Puts `pieces` in place of the text of `element`, each to be coloured when it comes near. */
function colourInSight(element: HTMLElement, pieces: readonly string[], colour: (piece: HTMLElement) => void): void {
  const spans = pieces.map((text) => {
    const span = document.createElement('span');
    span.textContent = text;
    return span;
  });
  element.replaceChildren(...spans);
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        colour(target as HTMLElement);
      }
    },
    { root: element.closest('.thread'), rootMargin: AHEAD }
  );
  for (const span of spans) observer.observe(span);
}

/**
 * Draws the formulas and colours the code inside `root`. Once the libraries are there this happens before the
 * next paint, so that text that is rendered anew for every frame does not flicker.
 */
export function enhance(root: HTMLElement, isStreaming: boolean): void {
  const math = [...root.querySelectorAll<HTMLElement>('[data-math]')];
  if (math.length > 0) {
    if (katex) drawMath(math, katex);
    else void loadKatex().then((renderer) => drawMath(math.filter(isFresh('math')), renderer));
  }
  // While it grows, longer code would be coloured anew for every frame.
  const code = [...root.querySelectorAll<HTMLElement>('code[data-language]')].filter(
    (element) => element.dataset.language !== '' && (!isStreaming || (element.textContent ?? '').length <= PIECE_CHARS)
  );
  if (code.length > 0) {
    if (highlighter) colourCode(code, highlighter, isStreaming);
    else void loadHighlighter().then((colours) => colourCode(code.filter(isFresh('language')), colours, isStreaming));
  }
}

const isFresh = (mark: 'math' | 'language') => (element: HTMLElement) => element.isConnected && element.dataset[mark] !== undefined;
