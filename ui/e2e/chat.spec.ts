import { answers, ask, composer, expect, finished, open, test } from './page';

test('a question is answered, with markdown, code, a table and figures', async ({ page }) => {
  await open(page, '?rate=400');
  await ask(page, 'Show me the index code');
  await finished(page);
  const answer = answers(page).last();
  await expect(answer.locator('code .hljs-keyword').first()).toBeVisible();
  await expect(answer.getByRole('table')).toBeVisible();
  await expect(answer).toContainText('tokens/s');
  await expect(answer).toContainText('already in memory');
  await expect(page.getByRole('navigation').getByText('Show me the index code')).toBeVisible();
  await expect(page).toHaveURL(/#\/chat\//);
});

test('formulas are drawn', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  await expect(answers(page).locator('.katex').first()).toBeVisible();
  await expect(answers(page).locator('.katex-display')).toHaveCount(2);
});

test('suggested questions are asked with one press', async ({ page }) => {
  await open(page, '?rate=400&model=demo');
  await page.getByRole('button', { name: 'How do experts and offloading work?' }).click();
  await finished(page);
  await expect(answers(page)).toContainText('eight experts');
});

test('the questions to begin with are such as the model can answer, in its language', async ({ page }) => {
  await open(page, '?lang=de&model=demo');
  const demo = page.getByRole('button', { name: 'What is Octet?' });
  await expect(demo).toHaveAttribute('lang', 'en');
  await open(page, '?lang=de');
  await expect(page.getByRole('button', { name: /^Schreib eine Python-Funktion/ })).toBeVisible();
  await expect(demo).toHaveCount(0);
});

test('the ring lights two experts while text comes, and stop keeps what came', async ({ page }) => {
  await open(page, '?rate=20');
  await ask(page, 'How do experts work?');
  const answer = answers(page).last();
  await expect(answer).toContainText('A layer');
  await expect(answer.locator('.ring circle.lit')).toHaveCount(2);
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await finished(page);
  await expect(answer).toContainText('stopped');
  await answer.getByRole('button', { name: 'Continue' }).click();
  await expect(answer).toHaveAttribute('aria-busy', 'true');
  await page.keyboard.press('Escape');
  await composer(page).focus();
  await page.keyboard.press('Escape');
  await finished(page);
});

test('finished paragraphs are announced politely, each once', async ({ page }) => {
  await open(page, '?rate=300');
  await ask(page, 'How do experts work?');
  await finished(page);
  const news = page.getByRole('log', { name: 'Announcements' });
  await expect(news).toContainText('Octet is answering');
  await expect(news.getByText('Offloading makes use of that:')).toHaveCount(1);
  await expect(news.locator('p').last()).toHaveText(/shows this as it happens|is complete/);
});

test('regenerate makes a version, arrows lead back', async ({ page }) => {
  await open(page, '?rate=2000');
  await ask(page, 'What is Octet?');
  await finished(page);
  await answers(page).last().getByRole('button', { name: 'Regenerate' }).click();
  await expect(page.getByRole('group', { name: 'Version 2 of 2' })).toBeVisible();
  await page.getByRole('button', { name: 'Previous version' }).click();
  await expect(page.getByRole('group', { name: 'Version 1 of 2' })).toBeVisible();
});

test('an arrow up in the empty field edits the last message, which branches', async ({ page }) => {
  await open(page, '?rate=2000');
  await ask(page, 'What is Octet?');
  await finished(page);
  await expect(composer(page)).toHaveValue('');
  await composer(page).press('ArrowUp');
  const edited = page.getByRole('textbox', { name: 'Edit your message' });
  await expect(edited).toBeFocused();
  await edited.fill('How do experts work?');
  await edited.press('Enter');
  await finished(page);
  await expect(answers(page).last()).toContainText('eight experts');
  await page.getByRole('article', { name: 'Your message' }).getByRole('button', { name: 'Previous version' }).click();
  await expect(page.getByText('What is Octet?').first()).toBeVisible();
});

// The list was still on its way to its end, and took the field out of sight.
test('a message that is edited as soon as its chat is there is in sight', async ({ page }) => {
  await page.setViewportSize({ width: 800, height: 600 });
  await open(page);
  await page.getByRole('link', { name: 'Borrow checker and a linked list' }).click();
  await expect(answers(page).first()).toBeAttached();
  await composer(page).press('ArrowUp');
  const edited = page.getByRole('textbox', { name: 'Edit your message' });
  await expect(edited).toBeFocused();
  await expect(edited).toBeInViewport();
});

test('a deleted message comes back with undo', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  await answers(page)
    .getByRole('button', { name: /^More options for answer/ })
    .click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await expect(answers(page)).toHaveCount(0);
  await page.getByRole('button', { name: 'Undo' }).click();
  await expect(answers(page)).toHaveCount(1);
});

test('an answer that was cut short says so', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Borrow checker and a linked list' }).click();
  await page.getByRole('button', { name: 'Previous version' }).click();
  await expect(page.getByText('Octet closed before this answer was finished')).toBeVisible();
  await expect(answers(page).last().getByRole('button', { name: 'Continue' })).toBeVisible();
});

test('an answer that fails keeps its text, its reason and the next step', async ({ page }) => {
  await open(page, '?rate=300&fail=answer:gpuFailed');
  await ask(page, 'How do experts work?');
  const alert = answers(page).last().getByRole('alert');
  await expect(alert).toContainText('CUDA_ERROR_ILLEGAL_ADDRESS');
  await expect(alert.getByRole('button', { name: 'Try again' })).toBeEnabled();
  await expect(answers(page).last()).toContainText('A layer of Mixtral');
});

test('a message that is not taken stays in the field', async ({ page }) => {
  await open(page, '?fail=sendMessage:notLoaded');
  await ask(page, 'Do not lose me');
  await expect(page.getByRole('alert')).toContainText('No model is loaded');
  await expect(composer(page)).toHaveValue('Do not lose me');
});

test('a message is queued while the model loads, with progress and cancel', async ({ page }) => {
  await open(page, '?model=loading&loadMs=4000&rate=2000');
  await expect(page.getByRole('progressbar').first()).toBeVisible();
  await ask(page, 'What is Octet?');
  await expect(page.getByText('Waiting for the model to load')).toBeVisible();
  await expect(answers(page)).toContainText('Mixtral 8x7B');
});

test('without a model, nothing can be sent and the way to one is there', async ({ page }) => {
  await open(page, '?model=none&loadMs=100&rate=2000');
  await composer(page).fill('Hello');
  await expect(page.getByRole('button', { name: 'Send' })).toBeDisabled();
  await expect(page.locator('#composer-hint')).toHaveText('Choose a model to send messages');
  await page.getByRole('button', { name: 'Try the demo model' }).click();
  await expect(page.getByRole('button', { name: 'Send' })).toBeEnabled();
});

test('drafts are kept for each chat', async ({ page }) => {
  await open(page);
  await composer(page).fill('half a thought');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  await expect(composer(page)).toHaveValue('');
  await composer(page).fill('another');
  await page.getByRole('link', { name: 'New chat' }).click();
  await expect(composer(page)).toHaveValue('half a thought');
  const drafts = await page.evaluate(() => window.octetFake?.drafts);
  expect(drafts).toContainEqual([null, 'half a thought']);
});

test('shift enter breaks the line and the field grows', async ({ page }) => {
  await open(page);
  const before = await composer(page).boundingBox();
  await composer(page).fill('one');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('two');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('three');
  await expect(composer(page)).toHaveValue('one\ntwo\nthree');
  expect((await composer(page).boundingBox())?.height).toBeGreaterThan((before?.height ?? 0) * 2);
});

test('code is copied, links open outside', async ({ page }) => {
  await open(page, '?rate=2000&answer=xss');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  await ask(page, 'x');
  await finished(page);
  await answers(page).last().getByRole('link', { name: 'fine' }).click();
  await answers(page).last().getByRole('link', { name: 'Image: tracker' }).click();
  expect(await page.evaluate(() => window.octetFake?.opened)).toEqual([
    'https://example.org/path?a=1&b=2',
    'https://evil.example/track.png?q=secret'
  ]);
  await expect(page).toHaveURL(/localhost/);
  await answers(page).last().locator('[data-copy]').click();
  expect(await page.evaluate(() => navigator.clipboard.readText())).toContain('window.hacked = 8');
});

test('a copy that fails says so', async ({ page }) => {
  await open(page, '?rate=2000&answer=xss');
  await page.getByRole('link', { name: 'Regex for ISO dates' }).click();
  await ask(page, 'x');
  await finished(page);
  await page.evaluate(() => (navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))));
  const failed = page.getByText('The text could not be copied');
  for (const button of [
    answers(page).last().locator('[data-copy]'),
    answers(page).last().getByRole('button', { name: 'Copy', exact: true }).last(),
    page.getByRole('article', { name: 'Your message' }).last().getByRole('button', { name: 'Copy' })
  ]) {
    const before = await failed.count();
    await button.click();
    await expect(failed).toHaveCount(before + 1);
  }
});

test('hostile answers run nothing and fetch nothing, while they stream and after', async ({ page, complaints }) => {
  await open(page, '?rate=120&answer=xss');
  await ask(page, 'x');
  await expect(page.getByRole('button', { name: 'Stop', exact: true })).toBeVisible();
  await finished(page);
  await page.waitForTimeout(300);
  expect(await page.evaluate(() => window.hacked)).toBeUndefined();
  await expect(page.locator('main :is(script, img, iframe, form[action], base, meta)')).toHaveCount(0);
  expect(complaints).toEqual([]);
});

test('a suggested question leaves the draft alone', async ({ page }) => {
  await open(page, '?rate=2000&model=demo');
  await composer(page).fill('my long precious draft');
  await page.getByRole('button', { name: 'What is Octet?' }).click();
  await finished(page);
  await expect(composer(page)).toHaveValue('');
  await page.getByRole('link', { name: 'New chat' }).click();
  await expect(composer(page)).toHaveValue('my long precious draft');
});

test('whoever points at a chat writes in it at once', async ({ page }) => {
  await open(page);
  for (const name of ['New chat', 'Trip to Lisbon in March', 'New chat']) {
    await page.getByRole('link', { name, exact: true }).click();
    await expect(composer(page)).toBeFocused();
  }
  await page.getByRole('link', { name: 'Models' }).click();
  await page.keyboard.press('Control+Shift+o');
  await expect(composer(page)).toBeFocused();
});

test('the focus is never lost with the button that was pressed', async ({ page }) => {
  await open(page, '?rate=60');
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toContainText('A layer');
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await expect(composer(page)).toBeFocused();
  await finished(page);
  for (const name of ['Continue', 'Regenerate']) {
    await answers(page).last().getByRole('button', { name }).press('Enter');
    await expect(answers(page).last()).toHaveAttribute('aria-busy', 'true');
    await expect(composer(page)).toBeFocused();
    await page.keyboard.press('Escape');
    await finished(page);
  }
  await page.getByRole('button', { name: 'Previous version' }).press('Enter');
  await expect(page.getByRole('group', { name: 'Version 1 of 2' })).toBeVisible();
  await expect(page.getByRole('button', { name: 'Previous version' })).toBeFocused();
  await answers(page)
    .last()
    .getByRole('button', { name: /^More options for answer/ })
    .press('Enter');
  await page.getByRole('menuitem', { name: 'Delete' }).press('Enter');
  await expect(composer(page)).toBeFocused();
  await page.keyboard.press('Control+z');
  await expect(page.getByRole('group', { name: 'Version 1 of 2' })).toBeVisible();
});

test('Escape stops an answer wherever the focus is, but closes a menu first', async ({ page }) => {
  await open(page, '?rate=20');
  await ask(page, 'How do experts work?');
  const answer = answers(page).last();
  await expect(answer).toContainText('A layer');
  await page.getByRole('button', { name: 'More options for chats' }).press('Enter');
  await expect(page.getByRole('menu')).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByRole('menu')).toHaveCount(0);
  await expect(answer).toHaveAttribute('aria-busy', 'true');
  await page.getByRole('log', { name: 'Conversation' }).focus();
  await page.keyboard.press('Escape');
  await expect(answer).toContainText('stopped');
});

test('an answer is stopped from the experts, too', async ({ page }) => {
  await open(page, '?rate=20');
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toContainText('A layer');
  await page.getByRole('link', { name: 'Experts', exact: true }).click();
  await page.getByRole('button', { name: 'Stop answering' }).click();
  await expect(page.getByRole('button', { name: 'Stop answering' })).toHaveCount(0);
});

test('a question whose answer was deleted can be answered', async ({ page }) => {
  await open(page, '?rate=2000');
  await ask(page, 'What is Octet?');
  await finished(page);
  await expect(page.getByRole('button', { name: 'Get an answer' })).toHaveCount(0);
  await answers(page)
    .getByRole('button', { name: /^More options for answer/ })
    .click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Get an answer' }).click();
  await finished(page);
  await expect(answers(page)).toHaveCount(1);
  await expect(page.getByRole('article', { name: 'Your message' })).toHaveCount(1);
});

test('a model that failed says why in a chat that is open, and is tried again', async ({ page }) => {
  await open(page, '?model=failed&loadMs=200');
  await page.getByRole('link', { name: 'How experts work' }).click();
  const alert = page.getByRole('main').getByRole('alert');
  await expect(alert).toBeVisible();
  await alert.getByRole('button', { name: 'Try again' }).click();
  await expect(alert).toHaveCount(0);
});

test('a message that was searched for in a short chat is not far from the latest', async ({ page }) => {
  await open(page);
  await page.getByRole('searchbox').fill('autolyse');
  await expect(page.locator('mark')).toBeVisible();
  await page.getByRole('searchbox').press('Enter');
  await expect(page.getByText('Strong flour, an hour of autolyse')).toBeVisible();
  await page.waitForTimeout(300);
  const isScrolling = await page.getByRole('log', { name: 'Conversation' }).evaluate((it) => it.scrollHeight > it.clientHeight + 48);
  await expect(page.getByRole('button', { name: 'Jump to latest' })).toHaveCount(isScrolling ? 1 : 0);
});
