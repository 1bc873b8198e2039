import { answers, ask, composer, expect, finished, open, test } from './page';

test('the whole box for a message takes a click', async ({ page }) => {
  await open(page);
  const box = await page.locator('.composer .box').boundingBox();
  if (!box) throw new Error('there is no box');
  for (const [x, y] of [
    [4, 4],
    [box.width / 2, 4],
    [30, box.height - 6],
    [box.width - 4, 6]
  ] as const) {
    await page.getByRole('searchbox').focus();
    await page.mouse.click(box.x + x, box.y + y);
    await expect(composer(page)).toBeFocused();
  }
});

test('code keeps its first indentation, when it is sent and when it is edited', async ({ page }) => {
  await open(page, '?rate=5000');
  await composer(page).fill('    indented\n        more');
  await page.keyboard.press('Enter');
  await finished(page);
  const bubble = page.locator('article.user .bubble');
  expect(await bubble.evaluate((one) => one.textContent)).toBe('    indented\n        more');
  await composer(page).press('ArrowUp');
  await page.getByRole('textbox', { name: 'Edit your message' }).fill('\tand a tab');
  await page.keyboard.press('Enter');
  await finished(page);
  expect(await bubble.evaluate((one) => one.textContent)).toBe('\tand a tab');
  await composer(page).fill(' \n ');
  await expect(page.getByRole('button', { name: 'Send' })).toBeDisabled();
});

test('buttons on one screen have names of their own', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Borrow checker and a linked list' }).click();
  await expect(answers(page)).toHaveCount(2);
  const names = await page
    .getByRole('button')
    .evaluateAll((buttons) =>
      buttons
        .filter((one) => !one.closest('article') || one.getAttribute('aria-haspopup') !== null)
        .map((one) => one.getAttribute('aria-label') ?? one.textContent?.trim() ?? '')
    );
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  await expect(page.getByRole('button', { name: 'More options for answer 2' })).toBeVisible();
  // What is written on it can be said to press it.
  await expect(page.getByRole('button', { name: 'Settings panel' })).toHaveText('Settings');
});

test('models of one name are told apart in the menu', async ({ page }) => {
  await open(page, '?twins=1');
  await page
    .getByRole('banner')
    .getByRole('button', { name: /^Mixtral 8x7B Instruct/ })
    .click();
  const items = page.getByRole('menuitem', { name: /^Mixtral 8x7B Instruct/ });
  await expect(items).toHaveCount(2);
  await expect(items.nth(0)).toContainText('2-bit experts');
  await expect(items.nth(1)).toContainText('3-bit experts');
});

test('a model without a tokenizer says that it cannot chat before it is loaded, and when', async ({ page }) => {
  await open(page, '?twins=1&loadMs=100');
  await page
    .getByRole('banner')
    .getByRole('button', { name: /^Mixtral 8x7B Instruct/ })
    .click();
  const item = page.getByRole('menuitem', { name: /3-bit experts/ });
  await expect(item).toContainText('can’t chat');
  await item.click();
  await expect(page.getByRole('banner')).toContainText('failed');
  await expect(page.getByRole('main').getByRole('alert')).toContainText('tokenizer.json');
});

test('switching and unloading ask first while an answer is written', async ({ page }) => {
  // Longer than the test takes on any machine.
  await open(page, '?rate=15&answer=long&loadMs=200');
  await ask(page, 'How do experts work?');
  const answer = answers(page).last();
  await expect(answer).toContainText('paradox');
  const pill = page.getByRole('banner').getByRole('button', { name: /^Mixtral 8x7B Instruct/ });
  for (const item of ['Octet demo', 'Unload']) {
    await pill.click();
    await page.getByRole('menuitem', { name: item }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Keep answering' }).click();
    await expect(answer).toHaveAttribute('aria-busy', 'true');
    await expect(pill).toBeVisible();
  }
  await page.getByRole('link', { name: 'Models', exact: true }).click();
  await page.getByRole('main').getByRole('button', { name: 'Unload' }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Stop and unload' }).click();
  await expect(page.getByRole('banner')).toContainText('No model loaded');
});

test('without an answer nothing is asked', async ({ page }) => {
  await open(page, '?loadMs=100');
  await page
    .getByRole('banner')
    .getByRole('button', { name: /^Mixtral 8x7B Instruct/ })
    .click();
  await page.getByRole('menuitem', { name: 'Octet demo' }).click();
  await expect(page.getByRole('banner')).toContainText('Octet demo');
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
});

test('a dropped export is imported once that is wanted', async ({ page }) => {
  await open(page);
  const drop = (files: [string, 'chats' | 'model' | 'folder' | 'other'][]) =>
    page.evaluate((all) => window.octetFake?.drop(all.map(([name, kind]) => ({ name, path: `/home/ada/${name}`, kind }))), files);
  await drop([['octet.json', 'chats']]);
  await expect(page.getByRole('alertdialog')).toContainText('octet.json');
  await page.getByRole('alertdialog').getByRole('button', { name: 'Cancel' }).click();
  await expect(page.getByRole('link', { name: 'A dropped chat' })).toHaveCount(0);
  await drop([['octet.json', 'chats']]);
  await page.getByRole('alertdialog').getByRole('button', { name: 'Import' }).click();
  await expect(page.getByText('1 chat imported')).toBeVisible();
  await expect(page.getByRole('link', { name: 'A dropped chat' })).toBeVisible();

  await drop([['conversations.json', 'chats']]);
  await page.getByRole('alertdialog').getByRole('button', { name: 'Import' }).click();
  await expect(page.getByText(/conversations\.json: .*ChatGPT export/)).toBeVisible();
  await drop([['photo.png', 'other']]);
  await expect(page.getByText(/can’t open photo\.png/)).toBeVisible();
  await drop([['mixtral', 'folder']]);
  await expect(page.getByText(/mixtral is a folder/)).toBeVisible();
  await drop([['mixtral.Q4_K_M.gguf', 'model']]);
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await expect(page.getByText('mixtral.Q4_K_M.gguf is in your models.')).toBeVisible();
  await expect(page.getByRole('heading', { name: 'Models', level: 1 })).toBeVisible();
  expect(await page.evaluate(() => window.octetFake?.imports)).toEqual([['/home/ada/mixtral.Q4_K_M.gguf', 'link']]);
});

test('no heading stands over nothing', async ({ page }) => {
  await open(page, '?offers=none#/models');
  await expect(page.getByRole('heading', { name: 'Models', level: 1 })).toBeVisible();
  const empty = await page.locator('main h2, main h3').evaluateAll((headings) =>
    headings
      .filter((one) => {
        const next = one.nextElementSibling;
        return next !== null && (/^H[1-6]$/.test(next.tagName) || (next.tagName === 'UL' && next.children.length === 0));
      })
      .map((one) => one.textContent)
  );
  expect(empty).toEqual([]);
});
