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

/** Above this, colouring code anew for every frame of a stream costs too much of the frame. */
const HIGHLIGHT_LIMIT_CHARS = 8_000;

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

function colourCode(elements: readonly HTMLElement[], colours: Highlighter): void {
  for (const element of elements) {
    const language = element.dataset.language ?? '';
    delete element.dataset.language;
    if (!colours.getLanguage(language)) continue;
    const source = element.textContent ?? '';
    sources.set(element, source);
    element.innerHTML = colours.highlight(source, { language, ignoreIllegals: true }).value;
  }
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
  const code = [...root.querySelectorAll<HTMLElement>('code[data-language]')].filter(
    (element) =>
      element.dataset.language !== '' && (!isStreaming || (element.textContent ?? '').length <= HIGHLIGHT_LIMIT_CHARS)
  );
  if (code.length > 0) {
    if (highlighter) colourCode(code, highlighter);
    else void loadHighlighter().then((colours) => colourCode(code.filter(isFresh('language')), colours));
  }
}

const isFresh = (mark: 'math' | 'language') => (element: HTMLElement) =>
  element.isConnected && element.dataset[mark] !== undefined;
