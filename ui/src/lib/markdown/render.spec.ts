import { describe, expect, it } from 'vitest';
import { BORROW_ANSWER, HOSTILE_ANSWER, INDEX_ANSWER, OLBERS_ANSWER } from '$lib/backend/fake/texts';
import { GrowingMarkdown, isOpenable, plainText, renderMarkdown, type Labels } from './render';

const labels: Labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };
const html = (text: string) =>
  renderMarkdown(text, labels)
    .map((block) => block.html)
    .join('');
const dom = (text: string) => {
  const root = document.createElement('div');
  root.innerHTML = html(text);
  return root;
};

describe('markdown', () => {
  it('becomes blocks: code with its language, tables, lists', () => {
    const root = dom(INDEX_ANSWER);
    expect(root.querySelector('.code-bar span')).toHaveTextContent('rust');
    expect(root.querySelector('code[data-language="rust"]')?.textContent).toContain('struct Arena<T>');
    expect(root.querySelectorAll('td.align-right')).toHaveLength(3);
    expect(root.querySelectorAll('ol > li')).toHaveLength(3);
    expect(root.querySelector('[style]')).toBeNull();
  });

  it('marks formulas of all four kinds', () => {
    const root = dom(OLBERS_ANSWER);
    expect(root.querySelectorAll('[data-math=display]')).toHaveLength(2);
    expect(root.querySelectorAll('[data-math=inline]')).toHaveLength(4);
    expect(root.querySelector('[data-math=display]')?.textContent).toContain('\\int_0^\\infty');
  });

  it('leaves amounts of money alone', () => {
    expect(dom('It costs $5 here and $10 there.').querySelector('[data-math]')).toBeNull();
  });

  it('keeps headings below those of the window', () => {
    expect(dom('# One\n\n## Two').innerHTML).toMatch(/<h3[^>]*>One.*<h4[^>]*>Two/s);
  });
});

describe('plain text', () => {
  it('is what a block says, without its buttons', () => {
    expect(plainText(html('Some **bold** `code`'))).toBe('Some bold code');
    expect(plainText(html('```rust\nlet a;\n```'))).toBe('let a;');
  });
});

describe('hostile markdown', () => {
  const root = dom(HOSTILE_ANSWER);

  it('makes no element that runs, loads or leaves', () => {
    expect(root.querySelector('script, img, svg, iframe, style, form, input, base, meta, object, link, video')).toBeNull();
    for (const element of root.querySelectorAll('*')) {
      for (const { name } of element.attributes) expect(name).not.toMatch(/^on|^style$|^src|^srcdoc$/);
    }
  });

  it('links only to the web and to mail', () => {
    for (const link of root.querySelectorAll('a')) expect(link.getAttribute('href')).toMatch(/^(https?:|mailto:)/);
    expect(root.querySelector('a[href^="https://example.org/path"]')).not.toBeNull();
  });

  it('shows an image as a link that says so', () => {
    const link = [...root.querySelectorAll('a')].find((one) => one.textContent === 'Image: tracker');
    expect(link).toHaveAttribute('href', 'https://evil.example/track.png?q=secret');
  });

  it('keeps code as text', () => {
    expect(root.querySelector('pre code')?.textContent).toContain('</code></pre><script>');
  });

  it.each([
    'javascript:alert(1)',
    ' JaVaScRiPt:1',
    'data:text/html,x',
    'vbscript:1',
    'file:///etc/passwd',
    'octet://x',
    '//evil.example',
    '/path'
  ])('does not open %s', (url) => expect(isOpenable(url)).toBe(false));
});

describe('growing markdown', () => {
  it.each([
    BORROW_ANSWER,
    INDEX_ANSWER,
    OLBERS_ANSWER,
    HOSTILE_ANSWER,
    '- a\n- b\n\n  c\n\nd\n===\n\n1. x\n2. y\n\n> q\nlazy\n\n    code\n'
  ])('ends, letter by letter, as the whole text rendered at once', (text) => {
    const growing = new GrowingMarkdown(labels);
    for (let end = 0; end <= text.length; end += 3) growing.render(text.slice(0, end));
    expect(growing.render(text)).toEqual(renderMarkdown(text, labels));
  });

  it.each([
    'One two,  three\nfour five. Six  \nseven\n\nEight',
    'a *b c* d **e\nf** g `h i` j\nk_l m_n o',
    'See http://example.org/a and so on http:\n//x www.a.org mailto:ada b@c.org d',
    'Title\n===\ntext\n---\nmore\n1. one\n\na | b\n--|--\nc | d\ne',
    '> quote\nlazy\n\nno \\\nescape \\a b &amp; c &am p; <b>d</b> e',
    'It costs $5 and $6 b\n$$\nx y\n$$\nz \\(a b\\) c \\[d\ne\\] f',
    '- a\nb\n\nc\n\n    code\nd\n```\ne\nf\n```\ng\n![h i](j) k'
  ])('is at every letter what that much text is: %j', (text) => {
    const growing = new GrowingMarkdown(labels);
    for (let end = 0; end <= text.length; end++) {
      const part = text.slice(0, end);
      expect(growing.render(part)).toEqual(new GrowingMarkdown(labels).render(part));
    }
  });

  it('renders only the last block again', () => {
    const growing = new GrowingMarkdown(labels);
    const before = growing.render('One\n\nTwo\n\nThr');
    const after = growing.render('One\n\nTwo\n\nThree');
    expect(after[0]).toBe(before[0]);
    expect(after[1]).toBe(before[1]);
    expect(after[2]).not.toBe(before[2]);
    expect(growing.render('One\n\nTwo\n\nThree')[2]).toBe(after[2]);
  });

  it('starts over when the text is another one', () => {
    const growing = new GrowingMarkdown(labels);
    growing.render('One\n\nTwo');
    expect(growing.render('Else').map((block) => block.html)).toEqual(['<p dir="auto">Else</p>\n']);
  });
});
