import { describe, expect, it, vi } from 'vitest';
import { enhance } from './enhance';
import { renderMarkdown } from './render';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };

function drawn(text: string): HTMLElement {
  const root = document.createElement('div');
  root.innerHTML = renderMarkdown(text, labels).map((block) => block.html).join('');
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
