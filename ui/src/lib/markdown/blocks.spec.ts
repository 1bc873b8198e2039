import { describe, expect, it } from 'vitest';
import { SAMPLES } from '$lib/backend/fake/samples';
import { isMisleading, parts } from './links';
import { GrowingMarkdown, renderMarkdown } from './render';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };
const dom = (text: string) => {
  const root = document.createElement('div');
  root.innerHTML = renderMarkdown(text, labels)
    .map((block) => block.html)
    .join('');
  return root;
};

describe('HTML in an answer', () => {
  const root = dom(SAMPLES.html ?? '');

  it('is drawn where it is one of a few elements', () => {
    expect([...root.querySelectorAll('sub, sup, kbd')].map((one) => one.outerHTML)).toEqual([
      '<sub>2</sub>',
      '<sup>2</sup>',
      '<kbd>Ctrl</kbd>',
      '<sup>3</sup>'
    ]);
    expect(root.querySelectorAll('br')).toHaveLength(2);
    expect(root.querySelector('td')?.innerHTML).toMatch(/^one<br>\s*two$/);
  });

  it('is text where it has attributes, is another element, or is never closed', () => {
    expect(root.textContent).toContain('<sub onclick="window.hacked=1">not this</sub>');
    expect(root.textContent).toContain('<img src=x onerror="window.hacked=2">');
    expect(root.textContent).toContain('<sub>never closed');
    expect(root.querySelector('img, [onclick], [onerror]')).toBeNull();
  });

  it.each([
    ['<sub>a<sup>b</sup></sub>', '<sub>a<sup>b</sup></sub>'],
    ['<SUB>*a*</Sub>', '<sub><em>a</em></sub>'],
    ['a<br/>b<BR />c', /a<br>\s*b<br>\s*c/],
    ['`<sub>x</sub>`', '<code dir="ltr">&lt;sub&gt;x&lt;/sub&gt;</code>'],
    ['<sub>`</sub>`</sub>', '<sub><code dir="ltr">&lt;/sub&gt;</code></sub>'],
    ['**<u>a</u>**', '<strong><u>a</u></strong>'],
    ['<script>1</script>', '&lt;script&gt;1&lt;/script&gt;'],
    ['<a href="javascript:1">x</a>', '&lt;a href="javascript:1"&gt;x&lt;/a&gt;'],
    ['</sub>a', '&lt;/sub&gt;a']
  ])('%s', (text, html) =>
    expect(dom(text).innerHTML).toMatch(typeof html === 'string' ? new RegExp(`>${html.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')}<`) : html)
  );

  it('takes no longer for many that are never closed', () => {
    // Not by the clock: other programs may have the processor meanwhile.
    const started = process.cpuUsage();
    dom('<sub>'.repeat(3000));
    dom(`${'<sub>'.repeat(1000)}x${'</sub>'.repeat(1000)}`);
    expect(process.cpuUsage(started).user / 1e6).toBeLessThan(15);
  }, 300_000);
});

describe('a list of tasks', () => {
  it('has check boxes that say their state', () => {
    const boxes = [...dom(SAMPLES.html ?? '').querySelectorAll('[role=checkbox]')];
    expect(
      boxes.map((box) => [box.getAttribute('aria-checked'), box.getAttribute('aria-label'), box.getAttribute('aria-disabled')])
    ).toEqual([
      ['true', 'Done', 'true'],
      ['false', 'Not done', 'true']
    ]);
    expect(boxes[0]?.parentElement).toHaveTextContent(/^bought milk$/);
  });

  it.each(['- [x]', '- [y] a', '- [x](https://example.org)', 'a [x] b', '- \\[x] a'])('is none in %j', (text) => {
    expect(dom(text).querySelector('[role=checkbox]')).toBeNull();
  });

  it.each(['1. [X] a', '* [ ] *b*', '- [x] a\n\n  more', '- [x] `a`'])('is one in %j', (text) => {
    expect(dom(text).querySelectorAll('[role=checkbox]')).toHaveLength(1);
    expect(dom(text).textContent).not.toContain('[');
  });
});

describe('a link', () => {
  it('says where it leads, and does so beside a text that misleads', () => {
    const root = dom(SAMPLES.links ?? '');
    const shown = [...root.querySelectorAll('a')].map((link) => [
      link.textContent,
      link.getAttribute('aria-description'),
      link.nextElementSibling?.className === 'host' && link.nextSibling?.textContent === ' ' ? link.nextElementSibling.textContent : null
    ]);
    expect(shown).toEqual([
      ['link', 'https://example.org/a?b=c#d', null],
      ['https://example.org/x', null, null],
      ['mailto:ada@example.org', null, null],
      ['https://good.example', 'https://evil.example/path', '(evil.example)'],
      ['u', 'https://good.example@evil.example/', '(evil.example)'],
      ['titled', 'https://evil.example', null],
      ['good.example', 'https://good.example/', null]
    ]);
    expect(root.querySelector('[title]')).toBeNull();
  });

  it.each([
    ['good.example', 'https://evil.example/', true],
    ['www.good.example/login', 'https://good.example.evil.example/', true],
    ['https://good.example', 'http://good.example:8080/', false],
    ['Good.Example', 'https://www.good.example/a', false],
    ['visit https://good.example now', 'https://evil.example', true],
    ['good\u200b.example', 'https://evil.example', true],
    ['elpmaxe.doog\u202e', 'https://evil.example', true],
    ['ada@good.example', 'mailto:ada@good.example', false],
    ['ada@good.example', 'mailto:eve@evil.example', true],
    ['here', 'https://xn--80ak6aa92e.example/', true],
    ['the documentation', 'https://docs.example/', false],
    ['version 1.2.3 of it', 'https://docs.example/', false],
    ['e.g. this', 'https://docs.example/', false]
  ])('%j to %s misleads: %s', (text, url, expected) => expect(isMisleading(text, url)).toBe(expected));
});

it.each([
  ['https://a.b/?u=a.b', ['https://', 'a.b', '/?u=a.b']],
  ['https://good.example@evil.example/', ['https://good.example@', 'evil.example', '/']],
  ['https://a.b@a.b/', ['https://a.b@', 'a.b', '/']],
  ['HTTPS://A.B:8080/x', ['HTTPS://', 'A.B:8080', '/x']],
  ['mailto:ada@example.org', ['mailto:', 'ada@example.org', '']],
  ['https://münchen.example/', ['https://münchen.example/', ' (xn--mnchen-3ya.example)', '']]
])('the parts of %s', (url, expected) => expect(parts(url)).toEqual(expected));

describe('the direction', () => {
  const root = dom(SAMPLES.arabic ?? '');

  it('is that of the text, block by block', () => {
    for (const block of root.querySelectorAll('p, h3, th')) expect(block).toHaveAttribute('dir', 'auto');
    expect([...root.querySelectorAll('td')].map((cell) => cell.getAttribute('dir'))).toEqual(['auto', null]);
    for (const block of root.querySelectorAll('ul, ol, li, table, blockquote')) expect(block).toHaveAttribute('dir', 'rtl');
    for (const code of root.querySelectorAll('.code, :not(pre) > code')) expect(code).toHaveAttribute('dir', 'ltr');
    expect(root.querySelectorAll('li')).toHaveLength(3);
  });

  it('of an item is its own', () => {
    const mixed = dom('- first\n- بند\n- `code` بند');
    expect([...mixed.querySelectorAll('ul, li')].map((one) => one.getAttribute('dir'))).toEqual(['ltr', 'ltr', 'rtl', 'rtl']);
  });
});

describe('a list with code in its steps', () => {
  it('stays one list while it grows', () => {
    const text = SAMPLES.steps ?? '';
    const growing = new GrowingMarkdown(labels);
    for (let end = 2; end <= text.length; end++) {
      const html = growing.render(text.slice(0, end)).map((block) => block.html);
      const lists = html.filter((one) => one.startsWith('<ol'));
      expect(lists, text.slice(0, end)).toHaveLength(1);
      expect(growing.finished).toBe(0);
    }
    expect(growing.render(text)).toEqual(renderMarkdown(text, labels));
    expect(growing.render(text)).toHaveLength(1);
  });

  it.each([
    '1. a\n\n2024 was',
    '- a\n\n12) b',
    '1. a\n\n   b\n\n2. c\n\n3',
    '2. a\n\n10',
    '- a\n\n7\n\nx',
    '1. a\n```\nx\n```\n2. b\n\n3. c'
  ])('is, letter by letter, what the whole of it is: %j', (text) => {
    const growing = new GrowingMarkdown(labels);
    for (let end = 1; end <= text.length; end++) {
      const part = text.slice(0, end);
      expect(growing.render(part), part).toEqual(renderMarkdown(part, labels));
    }
  });
});
