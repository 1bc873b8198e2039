import { describe, expect, it, vi } from 'vitest';
import { SAMPLES } from '$lib/backend/fake/samples';
import { enhance } from '$lib/markdown/enhance';
import { renderMarkdown } from '$lib/markdown/render';
import { copied } from './selection';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };

async function page(text: string, isDrawn = true): Promise<HTMLElement> {
  const place = document.createElement('div');
  place.innerHTML = `<article><div class="ring">O</div><div class="markdown">${renderMarkdown(text, labels)
    .map(({ html }) => html)
    .join('')}</div><div class="stats">3 tokens/s <button>Copy</button></div></article>`;
  document.body.replaceChildren(place);
  if (isDrawn && place.querySelector('[data-math]')) {
    enhance(place, false);
    await vi.waitFor(() => expect(place.querySelector('[data-math]')).toBeNull());
  }
  return place;
}

const all = (place: Node) => {
  const range = document.createRange();
  range.selectNodeContents(place);
  return range;
};

describe('copying', () => {
  it('gives formulas once, as they were written, and no word of the page', async () => {
    const place = await page(SAMPLES.formulas ?? '');
    expect(copied(all(place), place)?.text).toBe(
      `Inline $E=mc^2$, a block:

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$

and within a line \\(a+b\\), \\[c+d\\] and $$f=g$$.

print(1)

    indented

a\tb
1\t2

1. one
2. two
  - inner $x$

The end.`
    );
    const html = copied(all(place), place)?.html ?? '';
    expect(html).toContain('$E=mc^2$');
    expect(html).not.toMatch(/Copy|python|katex|tokens/);
  });

  it('takes the whole of a formula of which a part is selected', async () => {
    const place = await page('before $E=mc^2$ after');
    const range = document.createRange();
    range.setStart(place.querySelector('p')?.firstChild as Text, 3);
    range.setEnd(place.querySelector('.katex-html') as Element, 0);
    expect(copied(range, place)?.text).toBe('ore $E=mc^2$');
    range.selectNodeContents(place.querySelector('.katex-mathml') as Element);
    expect(copied(range, place)?.text).toBe('$E=mc^2$');
  });

  it('gives a formula that is wrong as it was written', async () => {
    const place = await page('so $\\frac{1}{$ it is');
    expect(place).toHaveTextContent('$\\frac{1}{$');
    expect(copied(all(place), place)?.text).toBe('so $\\frac{1}{$ it is');
  });

  it('keeps lines, steps and boxes', async () => {
    const place = await page(SAMPLES.html ?? '', false);
    const text = copied(all(place), place)?.text;
    expect(text).toContain('first\nsecond, press Ctrl.');
    expect(text).toContain('- [x] bought milk\n- [ ] water the plants\n- plain');
    const steps = await page(SAMPLES.steps ?? '', false);
    expect(copied(all(steps), steps)?.text).toBe('1. Step one:\n\nls -la\n\n2. Step two:\n\npwd\n\n3. Step three');
  });

  it('of a part gives that part', async () => {
    const place = await page('one two\n\n- three four', false);
    const range = document.createRange();
    range.setStart(place.querySelector('li')?.firstChild as Text, 6);
    range.setEnd(place.querySelector('li')?.firstChild as Text, 10);
    expect(copied(range, place)?.text).toBe('four');
    range.setStart(place.querySelector('p')?.firstChild as Text, 4);
    expect(copied(range, place)?.text).toBe('two\n\n- three four');
  });

  it('leaves alone what is selected elsewhere, or nothing', async () => {
    const place = await page('one', false);
    const other = document.createElement('p');
    other.textContent = 'other';
    document.body.append(other);
    expect(copied(all(other), place)).toBeUndefined();
    const none = all(place);
    none.collapse();
    expect(copied(none, place)).toBeUndefined();
  });

  it('keeps the white space of a message', () => {
    const place = document.createElement('div');
    place.innerHTML = '<article><div class="bubble">a\n    b  c</div><div class="tools">Edit</div></article>';
    document.body.replaceChildren(place);
    expect(copied(all(place), place)?.text).toBe('a\n    b  c');
  });
});
