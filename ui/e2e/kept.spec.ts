import { answers, ask, composer, expect, expectAccessible, finished, open, test } from './page';

const rows = 'nav a[data-chat]';

test('continuing an earlier answer makes a version of it, and what follows stays on the other', async ({ page }) => {
  await open(page, '?rate=400');
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toContainText('A layer');
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await finished(page);
  await ask(page, 'What is Octet?');
  await finished(page);
  await answers(page).first().getByRole('button', { name: 'Continue' }).click();
  await expect(answers(page)).toHaveCount(1);
  await finished(page);
  await expect(page.getByRole('group', { name: 'Version 2 of 2' })).toBeVisible();
  await page.getByRole('button', { name: 'Previous version' }).click();
  await expect(answers(page)).toHaveCount(2);
  await expect(page.getByRole('article', { name: 'Your message' }).last()).toContainText('What is Octet?');
});

test('four quick deletions are undone one by one', async ({ page }) => {
  await open(page);
  const before = await page.locator(rows).allTextContents();
  await page.locator(rows).first().focus();
  for (let n = 1; n <= 4; n++) {
    await page.keyboard.press('Delete');
    await expect(page.locator(rows)).toHaveCount(before.length - n);
  }
  await expect(page.getByText('1 more notice')).toBeVisible();
  for (let n = 3; n >= 0; n--) {
    await page.getByRole('button', { name: 'Undo' }).last().click();
    await expect(page.locator(rows)).toHaveCount(before.length - n);
  }
  expect(await page.locator(rows).allTextContents()).toEqual(before);
});

test('what was deleted is in the trash, is restored from there, or deleted for good', async ({ page }) => {
  await open(page);
  const [first = '', second = ''] = (await page.locator(rows).allTextContents()).map((title) => title.trim());
  await page.locator(rows).first().focus();
  await page.keyboard.press('Delete');
  await page.keyboard.press('Delete');
  await page.getByRole('button', { name: 'More options for chats' }).click();
  await page.getByRole('menuitem', { name: 'Recently deleted' }).click();
  const deleted = page.getByRole('list', { name: 'Recently deleted' });
  await expect(deleted.getByRole('listitem')).toHaveCount(2);
  await expectAccessible(page);
  await deleted.getByRole('button', { name: `Restore “${first}”` }).click();
  await expect(deleted.getByRole('listitem')).toHaveCount(1);
  await expect(page.locator(rows).filter({ hasText: first })).toHaveCount(1);
  await deleted.getByRole('button', { name: `Delete “${second}” permanently` }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Delete permanently' }).click();
  await expect(page.getByText('Nothing was deleted in the last 30 days.')).toBeVisible();
});

// It still offered Undo, which then answered that the chat no longer exists.
test('nothing offers to undo what was deleted permanently or restored', async ({ page }) => {
  await open(page);
  const undo = page.getByRole('button', { name: 'Undo' });
  const remove = async () => {
    const row = page.locator(rows).first();
    const title = ((await row.textContent()) ?? '').trim();
    await row.focus();
    await page.keyboard.press('Delete');
    await expect(undo).toHaveCount(1);
    return title;
  };
  const permanently = page.getByRole('alertdialog').getByRole('button', { name: 'Delete permanently' });
  await page.goto('/#/trash');
  await page.getByRole('button', { name: `Delete “${await remove()}” permanently` }).click();
  await permanently.click();
  await expect(undo).toHaveCount(0);
  await page.getByRole('button', { name: `Restore “${await remove()}”` }).click();
  await expect(page.getByRole('button', { name: 'Open chat' })).toBeVisible();
  await expect(undo).toHaveCount(0);
  await remove();
  await page.getByRole('button', { name: 'Empty trash' }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Empty trash' }).click();
  await expect(page.getByText('Nothing was deleted in the last 30 days.')).toBeVisible();
  await expect(undo).toHaveCount(0);
  await page.keyboard.press('Control+z');
  await expect(page.getByText('This no longer exists.')).toHaveCount(0);
});

// Only what was typed 0.4 s before was on the disk.
test('what was typed is put down as the window closes', async ({ page }) => {
  await open(page);
  await page.clock.install();
  await composer(page).fill('half a thought');
  await page.evaluate(() => window.octetFake?.close());
  await expect.poll(() => page.evaluate(() => window.octetFake?.drafts.at(-1))).toEqual([null, 'half a thought']);
  await expect.poll(() => page.evaluate(() => window.octetFake?.closes)).toBe(1);
});

test('what was typed is there again after another screen was looked at for a moment', async ({ page }) => {
  await open(page);
  await composer(page).fill('half a thought');
  await page.getByRole('link', { name: 'Settings' }).first().click();
  await page.getByRole('link', { name: 'New chat' }).click();
  await expect(composer(page)).toHaveValue('half a thought');
});

test('an edit in progress survives another chat', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  const message = page.getByRole('article', { name: 'Your message' }).first();
  await message.hover();
  await message.getByRole('button', { name: 'Edit' }).click();
  const field = page.getByRole('textbox', { name: 'Edit your message' });
  await field.fill('Why is the sky dark, and not');
  await page.getByRole('link', { name: 'New chat' }).click();
  await expect(field).toHaveCount(0);
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  await expect(field).toHaveValue('Why is the sky dark, and not');
  await expect(composer(page)).toBeFocused();
  await field.press('Escape');
  await expect(field).toHaveCount(0);
  await page.getByRole('link', { name: 'New chat' }).click();
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  await expect(message).toBeVisible();
  await expect(field).toHaveCount(0);
});

// A page that was loaded again in the middle of an answer stood still, without Stop.
test('a page that comes in the middle of an answer shows it and stops it', async ({ page }) => {
  // Longer than the test takes on any machine.
  await open(page, '?answering=1&rate=25&answer=long');
  await page.getByRole('link', { name: 'Begun before' }).click();
  const answer = answers(page).last();
  await expect(answer).toHaveAttribute('aria-busy', 'true');
  await expect(answer).toContainText('paradox');
  await page.keyboard.press('Escape');
  await finished(page);
  await expect(answer).toContainText('stopped');
  await expect(page.getByRole('button', { name: 'Send' })).toBeVisible();
});

test('the context menu is the page’s own', async ({ page }) => {
  await open(page);
  await page.evaluate(() => navigator.clipboard.writeText('pasted text'));
  await composer(page).fill('some ');
  await composer(page).click({ button: 'right' });
  const menu = page.getByRole('menu');
  await expect(menu.getByRole('menuitem')).toHaveText(['Paste', 'Select all']);
  await expectAccessible(page);
  await menu.getByRole('menuitem', { name: 'Paste' }).click();
  await expect(composer(page)).toHaveValue('some pasted text');
  await composer(page).click({ button: 'right' });
  await menu.getByRole('menuitem', { name: 'Select all' }).click();
  await composer(page).click({ button: 'right' });
  await menu.getByRole('menuitem', { name: 'Cut' }).click();
  await expect(composer(page)).toHaveValue('');
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('some pasted text');

  // Where there is nothing to do there is no menu, neither this nor the browser's.
  const isPrevented = await page.evaluate(
    () => !document.body.dispatchEvent(new MouseEvent('contextmenu', { bubbles: true, cancelable: true }))
  );
  expect(isPrevented).toBe(true);
  await expect(menu).toHaveCount(0);

  await page.locator(rows).first().click({ button: 'right' });
  await expect(menu.getByRole('menuitem', { name: 'Rename' })).toBeVisible();
});
