import { afterEach, describe, expect, it, vi } from 'vitest';
import { enhance, PIECE_CHARS, piecesOf, sourceOf } from './enhance';
import { renderMarkdown } from './render';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };

function drawn(text: string): HTMLElement {
  const root = document.createElement('div');
  root.innerHTML = renderMarkdown(text, labels)
    .map((block) => block.html)
    .join('');
  document.body.append(root);
  enhance(root, false);
  return root;
}

describe('enhance', () => {
  it('draws formulas and colours code', async () => {
    const root = drawn('$a^2$\n\n```rust\nfn main() {}\n```');
    await vi.waitFor(() => {
      expect(root.querySelector('.katex')).not.toBeNull();
      expect(root.querySelector('.hljs-keyword')).toHaveTextContent('fn');
    });
  });

  it('leaves a formula that is wrong as it was written', async () => {
    const root = drawn('$\\frac{1}{$ and $x$');
    await vi.waitFor(() => expect(root.querySelector('.katex')).not.toBeNull());
    expect(root.textContent).toContain('\\frac{1}{');
  });

  it('draws nothing that would load or run', async () => {
    const root = drawn('$\\href{javascript:1}{x}$ $\\includegraphics{https://evil.example/b.png}$ $y$');
    await vi.waitFor(() => expect(root.querySelector('.katex')).not.toBeNull());
    expect(root.querySelector('a, img')).toBeNull();
  });

  it('does not colour a language it does not know', async () => {
    const root = drawn('```nonesuch\nfn\n```\n\n```js\nlet a\n```');
    await vi.waitFor(() => expect(root.querySelector('.hljs-keyword')).not.toBeNull());
    expect(root.querySelector('code')?.innerHTML).toBe('fn\n');
  });
});

describe('long code', () => {
  const lines = Array.from({ length: 5000 }, (_, n) => `const value${n} = "text ${n}"; // line ${n}${n % 40 === 39 ? '\n' : ''}`);
  const source = `${lines.join('\n')}\n`;

  /** Stands in for what tells which elements are in sight. */
  class Sight {
    static all: Sight[] = [];
    readonly watched = new Set<Element>();
    constructor(private readonly on: (entries: { isIntersecting: boolean; target: Element }[], self: Sight) => void) {
      Sight.all.push(this);
    }
    observe = (element: Element) => void this.watched.add(element);
    unobserve = (element: Element) => void this.watched.delete(element);
    show = (...elements: Element[]) =>
      this.on(
        elements.map((target) => ({ isIntersecting: this.watched.has(target), target })),
        this
      );
  }

  afterEach(() => {
    vi.unstubAllGlobals();
    Sight.all = [];
  });

  it('is cut into pieces that are the whole, at ends of lines', () => {
    const pieces = piecesOf(source);
    expect(pieces.join('')).toBe(source);
    expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThanOrEqual(PIECE_CHARS);
    expect(pieces.every((piece) => piece.endsWith('\n'))).toBe(true);
    expect(pieces.filter((piece) => piece.endsWith('\n\n')).length).toBeGreaterThan(pieces.length / 2);
    for (const odd of ['x'.repeat(3 * PIECE_CHARS + 1), `\n${'x'.repeat(PIECE_CHARS)}`, '\n'.repeat(PIECE_CHARS + 1)]) {
      expect(piecesOf(odd).join('')).toBe(odd);
      expect(Math.max(...piecesOf(odd).map((piece) => piece.length))).toBeLessThanOrEqual(PIECE_CHARS);
    }
  });

  // All 5,000 lines were coloured as the chat was opened, which took seconds.
  it('is coloured piece by piece, as it comes into sight', async () => {
    vi.stubGlobal('IntersectionObserver', Sight);
    const { default: colours } = await import('highlight.js/lib/common');
    const coloured = vi.spyOn(colours, 'highlight');
    const root = drawn(`\`\`\`js\n${source}\`\`\``);
    await vi.waitFor(() => expect(Sight.all).toHaveLength(1));
    const code = root.querySelector('code');
    const [sight] = Sight.all;
    if (!code || !sight) throw new Error('there is code, and it is watched');
    expect(coloured).not.toHaveBeenCalled();
    expect(root.querySelectorAll('code *').length).toBe(piecesOf(source).length);

    const [first, second] = code.children;
    if (!first || !second) throw new Error('there are several pieces');
    sight.show(second);
    expect(coloured).toHaveBeenCalledTimes(1);
    expect(second.querySelector('.hljs-keyword')).toHaveTextContent('const');
    expect(first.children).toHaveLength(0);
    sight.show(second, first);
    expect(coloured).toHaveBeenCalledTimes(2);
    expect(Math.max(...coloured.mock.calls.map(([text]) => text.length))).toBeLessThanOrEqual(PIECE_CHARS);
    expect(code.textContent).toBe(source);
    expect(sourceOf(code)).toBe(source);
  });

  it('in many blocks is coloured no faster', async () => {
    vi.stubGlobal('IntersectionObserver', Sight);
    await new Promise(requestAnimationFrame);
    const { default: colours } = await import('highlight.js/lib/common');
    const coloured = vi.spyOn(colours, 'highlight');
    const block = `\`\`\`js\n${source.slice(0, 3000)}\n\`\`\`\n\n`;
    const root = drawn(block.repeat(50));
    await vi.waitFor(() => expect(Sight.all).toHaveLength(48));
    expect(coloured).toHaveBeenCalledTimes(2);
    Sight.all.at(-1)?.show(root.querySelectorAll('code')[49]?.children[0] as Element);
    expect(coloured).toHaveBeenCalledTimes(3);
  });
});
