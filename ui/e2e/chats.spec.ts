import { expect, open, test } from './page';

const list = 'nav a[data-chat]';

test('chats are grouped by date, pinned ones first', async ({ page }) => {
  await open(page);
  await expect(page.getByRole('navigation').getByRole('heading')).toHaveText([
    'Pinned',
    'Today',
    'Yesterday',
    'Last 7 days',
    'Last 30 days',
    /\w+ \d{4}/
  ]);
});

test('a chat is renamed in place', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Trip to Lisbon in March' }).focus();
  await page.keyboard.press('F2');
  const field = page.getByRole('textbox', { name: 'New name of “Trip to Lisbon in March”' });
  await expect(field).toBeFocused();
  await field.fill('Porto instead');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('link', { name: 'Porto instead' })).toBeFocused();
});

test('a chat is pinned, deleted and brought back', async ({ page }) => {
  await open(page);
  const row = page.getByRole('link', { name: 'Regex for ISO dates' });
  await row.hover();
  await page.getByRole('button', { name: 'More options for “Regex for ISO dates”' }).click();
  await page.getByRole('menuitem', { name: 'Pin', exact: true }).click();
  await expect(page.locator(list).nth(0)).toHaveText(/Regex for ISO dates|How experts work/);
  await row.focus();
  await page.keyboard.press('Delete');
  await expect(row).toHaveCount(0);
  await page.getByRole('button', { name: 'Undo' }).click();
  await expect(row).toBeVisible();
});

test('search is reached by keyboard, and leads to the message', async ({ page }) => {
  await open(page);
  await page.keyboard.press('Control+k');
  await expect(page.getByRole('searchbox')).toBeFocused();
  await page.keyboard.type('redshift');
  await expect(page.getByText('No results for “redshift”')).toBeVisible();
  await page.getByRole('searchbox').fill('autolyse');
  await expect(page.locator('mark')).toHaveText('autolyse');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await expect(page.getByText('Strong flour, an hour of autolyse')).toBeVisible();
  await page.getByRole('searchbox').press('Escape');
  await expect(page.locator(list).first()).toBeVisible();
});

test('chats are exported and imported', async ({ page }) => {
  await open(page);
  await page.getByRole('button', { name: 'More options for chats' }).click();
  await page.getByRole('menuitem', { name: 'Export all chats as JSON…' }).click();
  await expect(page.getByText('Saved as /home/ada/octet-chats.json')).toBeVisible();
  await page.getByRole('button', { name: 'More options for chats' }).click();
  await page.getByRole('menuitem', { name: 'Import chats…' }).click();
  await expect(page.getByText('1 chat imported')).toBeVisible();
  await expect(page.getByRole('link', { name: 'An imported chat' })).toBeVisible();
});

test('an import that fails says why', async ({ page }) => {
  await open(page, '?fail=importChats:importNotOurs');
  await page.getByRole('button', { name: 'More options for chats' }).click();
  await page.getByRole('menuitem', { name: 'Import chats…' }).click();
  await expect(page.getByText('it contains no chats')).toBeVisible();
});

test('arrow keys walk the list, and only one row is a tab stop', async ({ page }) => {
  await open(page);
  await expect(page.locator(`${list}[tabindex="0"]`)).toHaveCount(1);
  await page.locator(list).nth(0).focus();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await expect(page.locator(list).nth(2)).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page.locator(list).nth(2)).toHaveAttribute('aria-current', 'page');
});

test('the keyboard alone asks, stops, opens settings and comes back', async ({ page }) => {
  await open(page, '?rate=30');
  await page.keyboard.press('Control+Shift+o');
  await page.getByRole('textbox', { name: /^Message/ }).focus();
  await page.keyboard.type('How do experts work?');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('article', { name: 'Answer' })).toContainText('A layer');
  await page.keyboard.press('Escape');
  await expect(page.getByRole('article', { name: 'Answer' })).toContainText('stopped');
  const pane = page.getByRole('complementary', { name: 'Settings panel' });
  await expect(pane).toBeVisible();
  await page.keyboard.press('Control+.');
  await expect(pane).toHaveCount(0);
  await page.keyboard.press('Control+,');
  await expect(page.getByRole('heading', { name: 'Settings', level: 1 })).toBeVisible();
});

test('every control that Tab reaches shows where the focus is', async ({ page }) => {
  await open(page);
  const unseen: string[] = [];
  for (let presses = 0; presses < 45; presses++) {
    await page.keyboard.press('Tab');
    const seen = await page.evaluate(() => {
      const at = document.activeElement;
      if (!at || at === document.body) return 'body';
      for (let element: Element | null = at; element; element = element.parentElement) {
        const style = getComputedStyle(element);
        const isBorder = element.matches('.box') && style.borderColor !== 'rgb(228, 224, 217)';
        if (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1) return '';
        if (isBorder) return '';
        if (element.matches('form, section, nav, main')) break;
      }
      return at.outerHTML.slice(0, 200);
    });
    if (seen === 'body') break;
    if (seen !== '') unseen.push(seen);
  }
  expect(unseen).toEqual([]);
});

test('10,000 chats scroll with few rows in the page', async ({ page }) => {
  await open(page, '?chats=10000');
  const scroller = page.locator('nav .list > div');
  for (let round = 0; round < 6; round++) {
    await scroller.evaluate((element) => element.scrollTo(0, element.scrollHeight));
    await page.waitForTimeout(120);
  }
  expect(await page.locator(list).count()).toBeLessThan(80);
  expect(await scroller.evaluate((element) => element.scrollHeight)).toBeGreaterThan(10_000);
  await expect(page.locator(list).last()).toBeVisible();
});

test('a chat that is deleted by key leads to the next, and comes back with Ctrl Z', async ({ page }) => {
  await open(page);
  const gone = page.getByRole('link', { name: 'Trip to Lisbon in March' });
  await gone.click();
  await gone.focus();
  await page.keyboard.press('Delete');
  await expect(gone).toHaveCount(0);
  await expect(page.locator(`${list}:focus`)).toHaveCount(1);
  await page.keyboard.press('Control+z');
  await expect(gone).toHaveAttribute('aria-current', 'page');
});

test('a chat that is pinned keeps the focus', async ({ page }) => {
  await open(page);
  const row = page.getByRole('link', { name: 'Regex for ISO dates' });
  await row.hover();
  await page.getByRole('button', { name: 'More options for “Regex for ISO dates”' }).click();
  await page.getByRole('menuitem', { name: 'Pin', exact: true }).press('Enter');
  await expect(row).toBeFocused();
});

test('the search is left by key and emptied by a new chat', async ({ page }) => {
  await open(page);
  const search = page.getByRole('searchbox');
  await search.fill('expert');
  await expect(page.locator('.hits a').first()).toBeVisible();
  await search.press('ArrowDown');
  await page.keyboard.press('ArrowUp');
  await expect(search).toBeFocused();
  await page.getByRole('link', { name: 'New chat' }).click();
  await expect(search).toHaveValue('');
  await expect(page.locator(list).first()).toBeVisible();
});

test('the sidebar is hidden and shown', async ({ page }) => {
  await open(page);
  await page.getByRole('button', { name: 'More options for chats' }).click();
  await page.getByRole('menuitem', { name: 'Hide sidebar' }).click();
  await expect(page.getByRole('navigation')).toHaveCount(0);
  await page.keyboard.press('Control+b');
  await expect(page.getByRole('navigation')).toBeVisible();
});

test('in a narrow window one drawer is open at a time, and leads back to the chat', async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 640 });
  await open(page, '?rate=2000');
  await page.keyboard.press('Control+.');
  await expect(page.getByRole('dialog')).toHaveCount(1);
  await page.keyboard.press('Control+k');
  await expect(page.getByRole('searchbox')).toBeFocused();
  await expect(page.getByRole('dialog')).toHaveCount(1);
  await page.keyboard.type('autolyse');
  await expect(page.locator('.hits a').first()).toBeVisible();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await expect(page.getByRole('textbox', { name: /^Message/ })).toHaveValue('');
  await page.getByRole('button', { name: 'Menu' }).click();
  await page.getByRole('dialog').getByRole('link', { name: 'New chat' }).click();
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await page.getByRole('button', { name: 'Menu' }).click();
  await page.getByRole('dialog').getByRole('link', { name: 'New chat' }).click();
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await page.getByRole('button', { name: 'Menu' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click();
  await expect(page.getByRole('dialog')).toHaveCount(0);
});
