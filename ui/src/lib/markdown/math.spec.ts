import { describe, expect, it } from 'vitest';
import { GrowingMarkdown, renderMarkdown } from './render';

const labels = { copy: 'Copy', code: 'code', table: 'Table', image: 'Image', done: 'Done', open: 'Not done' };

function drawn(text: string): { formulas: string[]; root: HTMLElement } {
  const root = document.createElement('div');
  root.innerHTML = renderMarkdown(text, labels)
    .map((block) => block.html)
    .join('');
  const formulas = [...root.querySelectorAll<HTMLElement>('[data-math]')].map((one) => `${one.dataset.math}: ${one.textContent}`);
  return { formulas, root };
}

describe('a dollar', () => {
  it.each([
    'add $HOME/bin:$PATH to your profile, and then $XDG_DATA_HOME.',
    'costs $5, use `a=$b` and then `c=$d` to see. End.',
    'It costs $5 and $10. Or from $5 to $10/month.',
    'costs 5$ and 10$ together; US$20 and US$30.',
    'It is $5 here or 6$.',
    'between $20 or 30$, as you like',
    "It is $5. That's not 10$.",
    'from $5,000 to 10,000$',
    '$1 is the first and $2 the second; $@ is all, $? the status, $$ the pid and $! the last.',
    'the pid is $$ and $$ again',
    'echo "${A}:${B}" and $(date)$(whoami)',
    '$a->b, $c->d and $x=$y; $x = $y + $z;',
    'A$AP Rocky and Ke$ha',
    '$5-$10, $5/$10, $5m-$10m',
    'one \\$5 and \\$6',
    '$ x $ and $x $ and $ x$',
    'a line $x\n\nanother x$ paragraph',
    '`$x$` and ``$y$``',
    '$',
    '$$',
    '$$$$',
    '$$$ is a rating, $$$',
    'Before.\n\n$$ price list\n\nThe rest.'
  ])('is money or a variable in %j', (text) => {
    expect(drawn(text).formulas).toEqual([]);
    // And nothing of it is lost.
    const { root } = drawn(text);
    const signs = (words: string) => words.replaceAll('\\$', '$').replace(/[^$]/g, '').length;
    expect(signs(root.textContent ?? '')).toBe(signs(text));
  });

  it.each([
    ['$x$', ['inline: x']],
    ['so $e^x$.', ['inline: e^x']],
    ['($a$, $b$)', ['inline: a', 'inline: b']],
    ['the $n$th and $k$s, $i$-th', ['inline: n', 'inline: k', 'inline: i']],
    ['设$x$为正', ['inline: x']],
    ['$5 \\text{ apples}$ and $2x + 3$', ['inline: 5 \\text{ apples}', 'inline: 2x + 3']],
    ['it costs $5 and $x$ is', ['inline: x']],
    ['$\\text{if $a$ then}$', ['inline: \\text{if $a$ then}']],
    ['$\\$5$', ['inline: \\$5']],
    ['*so $a*b*c$ it is*', ['inline: a*b*c']],
    ['$$x$$', ['display: x']],
    ['Use $$f=g$$.', ['display: f=g']],
    ['so $$ E = mc^2 $$ it is', ['display:  E = mc^2 ']],
    ['$$x$$ where x is', ['display: x']],
    ['Here:\n$$\nx\n= y\n$$\nand on', ['display: x\n= y']],
    ['- item\n\n  $$\n  a\n  $$\n- $b$', ['display: a', 'inline: b']],
    ['> $$\n> a\n> $$', ['display: a']],
    ['| a | $b$ |\n|---|---|\n| $c$ | d |', ['inline: b', 'inline: c']],
    ['```math\nx^2\n```', ['display: x^2']]
  ])('opens a formula in %j', (text, formulas) => expect(drawn(text).formulas).toEqual(formulas));
});

describe('a bracket', () => {
  it.each([
    ['Use \\(a+b\\) and \\[c+d\\].', ['inline: a+b', 'display: c+d']],
    ['\\[\nx = 1\n\\]', ['display: x = 1']],
    ['\\[ x \\]', ['display: x']],
    ['\\\\(a\\\\)', []],
    ['arr\\[0\\] and a citation \\[1\\] and \\[sic\\] and \\[text\\](https://example.org)', []],
    ['Before.\n\n\\[\nx = 1\n\nThe rest.\n\n- item', []],
    ['one \\(a and no end', []]
  ])('in %j', (text, formulas) => expect(drawn(text).formulas).toEqual(formulas));
});

describe('a formula that is never closed', () => {
  it.each(['$$', '\\['])('swallows nothing behind it (%s)', (open) => {
    const { root } = drawn(`Before.\n\n${open}\nx = 1\n\nThe rest.\n\n- item one\n\n## Heading\n\nEnd.`);
    expect(root.querySelector('h4')).toHaveTextContent('Heading');
    expect(root.querySelector('li')).toHaveTextContent('item one');
    expect(root.querySelector('[data-math]')).toBeNull();
  });

  it('is shown as it is written while it may still be closed', () => {
    const growing = new GrowingMarkdown(labels);
    for (const text of ['$$', '$$\nx', '$$\nx = 1\n- y', '$$\nx = 1\n- y\n$']) {
      expect(growing.render(text).map((block) => block.html)).toEqual([`<div class="math-source" dir="ltr">${text}</div>`]);
    }
    expect(growing.render('$$\nx = 1\n- y\n$$')[0]?.html).toContain('data-math="display"');
    expect(growing.render('$$\nx = 1\n\nSo')[1]?.html).toContain('So');
  });
});

it('takes no longer for a text that is full of dollars', () => {
  // Not by the clock: other programs may have the processor meanwhile.
  const started = process.cpuUsage();
  drawn('$a '.repeat(20_000));
  drawn('$a{ '.repeat(5_000));
  drawn('$a` '.repeat(5_000));
  // A square of it would take minutes.
  expect(process.cpuUsage(started).user / 1e6).toBeLessThan(15);
}, 300_000);
