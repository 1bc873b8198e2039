import { answers, ask, composer, expect, finished, open, test } from './page';

const news = (page: import('@playwright/test').Page) => page.getByRole('log', { name: 'Announcements' }).locator('p');

test('the context meter follows the model that is loaded', async ({ page }) => {
  await open(page, '?loadMs=300');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  const meter = page.getByRole('banner').getByRole('meter');
  await expect(meter).toHaveAttribute('aria-valuemax', '8192');
  await page
    .getByRole('banner')
    .getByRole('button', { name: /^Mixtral 8x7B Instruct/ })
    .click();
  await page.getByRole('menuitem', { name: 'Octet demo' }).click();
  await expect(meter).toHaveCount(0);
  await expect(meter).toHaveAttribute('aria-valuemax', '1024');
  await page.getByRole('textbox', { name: 'Context length' }).fill('512');
  await page.keyboard.press('Tab');
  await page.getByRole('button', { name: 'Reload with these settings' }).click();
  await expect(meter).toHaveCount(0);
  await expect(meter).toHaveAttribute('aria-valuemax', '512');
  await page
    .getByRole('banner')
    .getByRole('button', { name: /^Octet demo/ })
    .click();
  await page.getByRole('menuitem', { name: 'Unload' }).click();
  await expect(page.getByRole('banner')).toContainText('No model loaded');
  await expect(meter).toHaveCount(0);
});

test('the context meter counts the answer being made once', async ({ page }) => {
  await open(page, '?rate=40');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toContainText('Offloading');
  const used = Number(await page.getByRole('banner').getByRole('meter').getAttribute('aria-valuenow'));
  expect(used).toBeGreaterThan(120);
  expect(used).toBeLessThan(120 + 250);
});

test('no speed is shown where nothing came', async ({ page }) => {
  await open(page, '?rate=2');
  await ask(page, 'How do experts work?');
  await expect(page.getByText('Reading the conversation')).toBeVisible();
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await finished(page);
  await expect(answers(page).last()).toContainText('stopped');
  await expect(answers(page).last()).not.toContainText('tokens/s');
  await expect(answers(page).last()).not.toContainText('first token');
  await expect(news(page).last()).toHaveText('Stopped');
});

test('no speed is shown before there is one', async ({ page }) => {
  await page.addInitScript(() => {
    const seen: string[] = [];
    Object.assign(window, { seen });
    new MutationObserver(() => {
      const text = document.querySelector('.composer .speed')?.textContent ?? '';
      if (text && seen.at(-1) !== text) seen.push(text);
    }).observe(document, { subtree: true, childList: true, characterData: true });
  });
  await open(page, '?rate=3');
  await ask(page, 'How do experts work?');
  await expect(page.locator('.composer .speed')).toContainText('3.0 tokens/s');
  const seen = await page.evaluate(() => (window as unknown as { seen: string[] }).seen);
  expect(seen.filter((text) => text.trim().startsWith('0'))).toEqual([]);
});

test('a continued answer has statistics of all of it', async ({ page }) => {
  await open(page, '?rate=60');
  await ask(page, 'How do experts work?');
  const answer = answers(page).last();
  await expect(answer).toContainText('A layer');
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await finished(page);
  await answer.getByRole('button', { name: 'Continue' }).click();
  await finished(page);
  await answer.getByRole('button', { name: /^More/ }).click();
  await page.getByRole('menuitem').first().click();
  await expect(page.getByRole('dialog')).toContainText('cover all of it');
});

test('statistics say so where they miss a part', async ({ page }) => {
  await open(page, '?rate=5000');
  await page.getByRole('link', { name: 'Borrow checker and a linked list' }).click();
  await page.getByRole('button', { name: 'Previous version' }).click();
  await answers(page).last().getByRole('button', { name: 'Continue' }).click();
  await finished(page);
  await expect(answers(page).last()).toContainText('last part only');
});

test('a message that waits is taken back to the field, before what was typed since', async ({ page }) => {
  await open(page, '?model=loading&loadMs=60000');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  await expect(answers(page)).toHaveCount(1);
  const before = await page.getByRole('article').count();
  await ask(page, 'Do not lose me');
  await expect(page.locator('#composer-hint')).toContainText('Esc');
  await composer(page).fill('and this');
  await page.keyboard.press('Escape');
  await expect(composer(page)).toHaveValue('Do not lose me\n\nand this');
  await expect(page.getByRole('article')).toHaveCount(before);
  await expect(page.getByText('Waiting for the model to load')).toHaveCount(0);
});

test('a first message that waits is taken back, and no chat is left', async ({ page }) => {
  await open(page, '?model=loading&loadMs=60000');
  const count = await page.locator('nav a[data-chat]').count();
  await ask(page, 'My first');
  await expect(page.locator('nav a[data-chat]')).toHaveCount(count + 1);
  await composer(page).fill('typed since');
  await page.keyboard.press('Escape');
  await expect(composer(page)).toHaveValue('My first\n\ntyped since');
  await expect(page.locator('nav a[data-chat]')).toHaveCount(count);
  await expect(page).toHaveURL(/#\/$/);
});

test('an answer ends with its last words before it is said to be complete', async ({ page }) => {
  await open(page, '?rate=2000');
  await ask(page, 'What is Octet?');
  await finished(page);
  await expect(news(page).last()).toHaveText(/is complete/);
  await expect(news(page).nth(-2)).toContainText('Octet is a chat program');
});

test('Today becomes Yesterday at midnight', async ({ page }) => {
  await page.clock.install({ time: new Date('2026-11-23T22:58:00Z') });
  await open(page);
  const headings = page.getByRole('navigation').getByRole('heading');
  await expect(headings.nth(1)).toHaveText('Today');
  await page.clock.runFor(4 * 60_000);
  await expect(headings.nth(1)).toHaveText('Yesterday');
  await expect(headings.filter({ hasText: 'Today' })).toHaveCount(0);
});

test('a chat that the list has not come to has its title', async ({ page }) => {
  await open(page, '?chats=400');
  await page.getByRole('searchbox').fill('399');
  await expect(page.locator('mark').first()).toBeVisible();
  await page.getByRole('searchbox').press('Enter');
  await expect(page).toHaveTitle(/399 - Octet$/);
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(/399$/);
});

test('the experts say what was there and what prefetch brought, and keep the last speed', async ({ page }) => {
  await open(page, '?rate=300#/experts');
  await expect(page.getByText('used now', { exact: true })).toBeHidden();
  await page.getByRole('link', { name: 'New chat' }).click();
  await ask(page, 'How do experts work?');
  await page.getByRole('link', { name: 'Experts', exact: true }).click();
  await expect(page.getByText('used now', { exact: true })).toBeVisible();
  await expect(page.getByRole('button', { name: 'Stop answering' })).toHaveCount(0);
  await expect(page.getByText('used now', { exact: true })).toBeHidden();
  await expect(page.locator('.grid .cell.used, .grid .cell.missed')).toHaveCount(0);
  const speed = page.locator('.cards .card', { hasText: 'Speed' });
  await expect(speed.locator('strong')).toHaveText(/\d/);
  await expect(page.getByText(/more prefetched/)).toBeVisible();
  await expect(page.getByText(/^last [\d.]+, average/)).toBeVisible();
});

test('another model begins another line of speeds', async ({ page }) => {
  await open(page, '?rate=300&loadMs=100');
  await ask(page, 'How do experts work?');
  await page.getByRole('link', { name: 'Experts', exact: true }).click();
  await expect(page.getByText(/^last [\d.]+, average/)).toBeVisible();
  await page.getByRole('button', { name: /^Mixtral 8x7B Instruct/ }).click();
  await page.getByRole('menuitem', { name: 'Octet demo' }).click();
  await expect(page.getByText('No measurements yet')).toBeVisible();
});

test('an expert in RAM does not look like one on the GPU, with or without one', async ({ page }) => {
  for (const address of ['?gpu=0&model=demo#/experts', '#/experts']) {
    await open(page, `${address.startsWith('#') ? '?' : ''}${address}`);
    const cell = page.locator('.grid .cell.ram').first();
    await expect(cell).toBeVisible();
    // Less than two thirds of it are filled: GPU cells are filled to their edge.
    const share = await cell.evaluate((one) => {
      const style = getComputedStyle(one);
      const inside = one.clientHeight;
      const filled = inside - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
      return style.backgroundClip === 'content-box' ? filled / one.getBoundingClientRect().height : 1;
    });
    expect(share).toBeLessThan(0.6);
    expect(share).toBeGreaterThan(0.2);
  }
  await open(page, '?gpu=0&model=demo#/experts');
  await expect(page.locator('.legend .cell.vram')).toHaveCount(0);
});
