import { describe, expect, it, vi } from 'vitest';
import { enhance } from './enhance';
import { patch } from './patch';
import { GrowingMarkdown, renderMarkdown } from './render';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };
const htmlOf = (text: string) =>
  renderMarkdown(text, labels)
    .map((block) => block.html)
    .join('');

/** What `html` is as a page writes it. */
function written(html: string): string {
  const root = document.createElement('div');
  root.innerHTML = html;
  return root.innerHTML;
}

const TEXT = `# A title

Some *words*, **bold ones**, \`code\` and [a link](https://example.org/ "title").
A second line.

1. one
2. two
   - inside
   - also **inside**

> quoted

| a | b |
|---|:-:|
| 1 | 2 |

\`\`\`rust
fn main() {}
\`\`\`

The end.`;

/** A block of the page, and what draws a text into it as it streams. */
function streamed() {
  const root = document.createElement('div');
  document.body.append(root);
  const growing = new GrowingMarkdown(labels);
  const show = (text: string) => {
    patch(root, growing.render(text).at(-1)?.html ?? '');
    enhance(root, true);
  };
  return { root, show };
}

describe('patch', () => {
  it('shows what it was given, whatever was there before', () => {
    const root = document.createElement('div');
    for (const text of ['', 'a', 'a *b*', '- a', '- a\n- b', '```\nx', TEXT, 'a', '| a |\n|---|\n| b |', '']) {
      patch(root, htmlOf(text));
      expect(root.innerHTML).toBe(written(htmlOf(text)));
    }
  });

  it('follows a text that grows by a letter', { timeout: 300_000 }, () => {
    const root = document.createElement('div');
    for (let length = 0; length <= TEXT.length; length++) {
      const html = htmlOf(TEXT.slice(0, length));
      patch(root, html);
      expect(root.innerHTML).toBe(written(html));
    }
  });

  it('keeps the text that is there and adds to it', () => {
    const root = document.createElement('div');
    patch(root, htmlOf('some wor'));
    const text = root.querySelector('p')?.firstChild;
    patch(root, htmlOf('some words and **more**'));
    expect(root.querySelector('p')?.firstChild).toBe(text);
    expect(text?.textContent).toBe('some words and ');
  });

  it('keeps a formula that was drawn, and draws another', async () => {
    const { root, show } = streamed();
    show('so $a^2$');
    await vi.waitFor(() => expect(root.querySelector('.katex')).not.toBeNull());
    const drawn = root.querySelector('.katex');
    show('so $a^2$ is');
    expect(root.querySelector('.katex')).toBe(drawn);
    show('so $b^2$ is');
    expect(root.querySelector('.katex')).not.toBe(drawn);
    expect(root.querySelector('annotation')).toHaveTextContent('b^2');
    expect(root.textContent).toContain(' is');
  });

  it('colours code again as it grows', async () => {
    const { root, show } = streamed();
    show('```rust\nfn a');
    await vi.waitFor(() => expect(root.querySelector('.hljs-keyword')).not.toBeNull());
    const bar = root.querySelector('.code-bar');
    show('```rust\nfn a() {}\nlet');
    expect(root.querySelector('.code-bar')).toBe(bar);
    expect(root.querySelectorAll('.hljs-keyword')).toHaveLength(2);
    expect(root.querySelector('code')?.textContent).toBe('fn a() {}\nlet');
  });
});
