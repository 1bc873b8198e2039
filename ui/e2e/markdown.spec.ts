import type { Page } from '@playwright/test';
import { answers, ask, composer, expect, expectAccessible, finished, open, test } from './page';

async function answer(page: Page, name: string) {
  await open(page, `?rate=4000&answer=${name}`);
  await ask(page, 'Show me');
  await finished(page);
  return answers(page).last();
}

const clipboard = (page: Page) => page.evaluate(() => navigator.clipboard.readText());

test('formulas of all kinds are drawn, and copied once as they were written', async ({ page }) => {
  const shown = await answer(page, 'formulas');
  await expect(shown.locator('.katex')).toHaveCount(6);
  await expect(shown.locator('.katex-display')).toHaveCount(3);
  await shown.locator('.markdown').click();
  await page.locator('.thread').focus();
  await page.evaluate(() => getSelection()?.selectAllChildren(document.querySelector('.answer') as Element));
  await page.keyboard.press('Control+c');
  const text = await clipboard(page);
  expect(text).toContain(
    'Inline $E=mc^2$, a block:\n\n$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$\n\nand within a line \\(a+b\\), \\[c+d\\] and $$f=g$$.'
  );
  expect(text).toContain('print(1)\n\n    indented');
  expect(text).not.toMatch(/python|Copy|Regenerate|tokens\/s/);
  expect(text.match(/mc\^2/g)).toHaveLength(1);
});

test('dollars that are money stay text, and an unclosed formula swallows nothing', async ({ page }) => {
  const shown = await answer(page, 'money');
  await expect(shown).toContainText('$HOME/bin:$PATH');
  await expect(shown.locator('code')).toHaveText(['a=$b', 'c=$d']);
  await expect(shown.getByRole('listitem')).toHaveText('item one');
  await expect(shown.locator('.katex')).toHaveCount(0);
});

test('a little HTML and tasks are drawn, and nothing runs', async ({ page }) => {
  const shown = await answer(page, 'html');
  await expect(shown.locator('sub').first()).toHaveCSS('vertical-align', 'sub');
  const boxes = shown.getByRole('checkbox');
  await expect(boxes).toHaveCount(2);
  await expect(boxes.first()).toBeChecked();
  await expect(boxes.first()).toBeDisabled();
  await expect(boxes.last()).not.toBeChecked();
  expect(await page.evaluate(() => window.hacked)).toBeUndefined();
  await expectAccessible(page);
});

test('what is written is shown: no ligature joins signs, in any text', async ({ page }) => {
  await answer(page, 'html');
  await composer(page).fill('8x7B != ->');
  await page.keyboard.press('Control+Shift+O');
  await page.getByRole('link', { name: 'Show me' }).click();
  const joined = await page.evaluate(() =>
    [...document.querySelectorAll('body *')]
      .filter(
        (element) =>
          (!element.closest('.katex') && [...element.childNodes].some((node) => node instanceof Text && node.data.trim() !== '')) ||
          element.matches('input, textarea')
      )
      .filter((element) => getComputedStyle(element).fontVariantLigatures !== 'none')
      .map((element) => element.outerHTML.slice(0, 80))
  );
  expect(joined).toEqual([]);
});

test('a link says where it leads', async ({ page }) => {
  const shown = await answer(page, 'links');
  await expect(shown).toContainText('https://good.example (evil.example)');
  const target = page.locator('.target');
  await expect(target).toHaveCount(0);
  await shown.getByRole('link', { name: 'link', exact: true }).hover();
  await expect(target).toHaveText('https://example.org/a?b=c#d');
  await expect(target.locator('strong')).toHaveText('example.org');
  await page.mouse.move(0, 0);
  await expect(target).toHaveCount(0);
  await shown.getByRole('link', { name: 'u', exact: true }).focus();
  await expect(target.locator('strong')).toHaveText('evil.example');
  await expect(shown.getByRole('link', { name: 'u', exact: true })).toHaveAccessibleDescription('https://good.example@evil.example/');
});

test('a list with code in its steps is one list while it comes', async ({ page }) => {
  await open(page, '?rate=60&answer=steps');
  await page.evaluate(() => {
    const seen: number[] = [];
    Object.assign(window, { seen });
    new MutationObserver(() => {
      const count = document.querySelectorAll('.answer .markdown > .block > ol').length;
      if (count > 0) seen.push(count);
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  await ask(page, 'Show me');
  await finished(page);
  const seen = await page.evaluate(() => (window as unknown as { seen: number[] }).seen);
  expect(seen.length).toBeGreaterThan(3);
  expect(Math.max(...seen)).toBe(1);
});

test('every text has its own direction', async ({ page }) => {
  const shown = await answer(page, 'arabic');
  const styles = (selector: string) =>
    shown.locator(selector).evaluateAll((found) => found.map((one) => `${getComputedStyle(one).direction}`));
  expect(new Set(await styles('p:not(:last-child), li, ul, ol, table, td, blockquote'))).toEqual(new Set(['rtl']));
  expect(await styles('.block:last-child p')).toEqual(['ltr']);
  expect(new Set(await styles('.code, pre, code'))).toEqual(new Set(['ltr']));
  // The full stop is at the left end of the line, which begins at the right.
  const [first, end] = await shown
    .locator('p')
    .first()
    .evaluate((paragraph) => {
      const text = paragraph.firstChild as Text;
      const at = (offset: number) => {
        const range = document.createRange();
        range.setStart(text, offset);
        range.setEnd(text, offset + 1);
        return range.getBoundingClientRect().left;
      };
      return [at(0), at(text.length - 1)] as const;
    });
  expect(first).toBeGreaterThan(end);
  await composer(page).fill('مرحبا.');
  await expect(composer(page)).toHaveCSS('direction', 'rtl');
  await page.keyboard.press('Enter');
  await finished(page);
  await expect(page.locator('.bubble').last()).toHaveCSS('direction', 'rtl');
});
