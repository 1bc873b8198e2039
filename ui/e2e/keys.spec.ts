import type { Locator, Page } from '@playwright/test';
import { answers, ask, composer, expect, finished, open, test } from './page';

/** How a key comes while an input method uses it: of Chromium, and of WebKit, which ends the composition first. */
const COMPOSED = [
  { isComposing: true, keyCode: 229 },
  { isComposing: false, keyCode: 229 },
  { isComposing: true, keyCode: 13 }
];

async function pressComposed(field: Locator, keys = ['Enter', 'Escape', 'ArrowDown', 'ArrowUp']): Promise<void> {
  for (const init of COMPOSED) {
    for (const key of keys) {
      await field.evaluate(
        (element, [key, init]) => {
          element.dispatchEvent(new KeyboardEvent('keydown', { key, code: key, bubbles: true, cancelable: true, ...init }));
        },
        [key, init] as const
      );
    }
  }
}

interface Key {
  key: string;
  code: string;
  ctrlKey?: boolean;
  shiftKey?: boolean;
  altKey?: boolean;
}

/** Presses a key as another layout gives it; whether the page used it. */
const press = (page: Page, init: Key) =>
  page.evaluate((init: Key) => {
    const target = document.activeElement ?? document.body;
    return !target.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...init }));
  }, init);

/** An answer that goes on while something else is looked at. */
async function startAnswer(page: Page): Promise<void> {
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toHaveAttribute('aria-busy', 'true');
}

const isAnswering = async (page: Page) => expect(page.getByRole('button', { name: 'Stop', exact: true })).toBeEnabled();

test.describe('an input method has its keys to itself', () => {
  test('in the composer', async ({ page }) => {
    await open(page, '?rate=2000');
    await composer(page).fill('にほん');
    await pressComposed(composer(page));
    await expect(composer(page)).toHaveValue('にほん');
    await expect(answers(page)).toHaveCount(0);
    // A real composition, and the key that ends it.
    const devtools = await page.context().newCDPSession(page);
    await composer(page).fill('');
    await devtools.send('Input.imeSetComposition', { text: 'に', selectionStart: 1, selectionEnd: 1 });
    await devtools.send('Input.dispatchKeyEvent', { type: 'rawKeyDown', key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 229 });
    await devtools.send('Input.insertText', { text: '日' });
    await expect(composer(page)).toHaveValue('日');
    await expect(answers(page)).toHaveCount(0);
    await composer(page).press('Enter');
    await finished(page);
    await expect(answers(page)).toHaveCount(1);
  });

  test('in the field of a message', async ({ page }) => {
    await open(page, '?rate=2000');
    await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
    await page.getByRole('button', { name: 'Edit', exact: true }).click();
    const field = page.getByRole('textbox', { name: 'Edit your message' });
    await field.fill('日本');
    await pressComposed(field);
    await expect(field).toHaveValue('日本');
    await expect(answers(page)).toHaveCount(1);
    await field.press('Escape');
    await expect(field).toHaveCount(0);
  });

  test('where a chat is renamed', async ({ page }) => {
    await open(page);
    await page.getByRole('link', { name: 'Regex for ISO dates' }).dblclick();
    const field = page.locator('nav .row input');
    await field.fill('日本');
    await pressComposed(field);
    await expect(field).toHaveValue('日本');
    await field.press('Enter');
    await expect(page.getByRole('link', { name: '日本' })).toBeVisible();
  });

  test('in the search', async ({ page }) => {
    await open(page);
    const field = page.getByRole('searchbox');
    await field.fill('dough');
    await expect(page.locator('.hits a')).toHaveCount(1);
    const address = page.url();
    await pressComposed(field);
    await expect(field).toHaveValue('dough');
    await expect(field).toBeFocused();
    expect(page.url()).toBe(address);
  });

  test('in stop strings, seed and numbers', async ({ page }) => {
    await open(page);
    for (const [name, typed] of [
      ['Stop strings', '終'],
      ['Seed', '12'],
      ['Temperature', '1']
    ] as const) {
      const field = page.getByRole('textbox', { name });
      await field.fill(typed);
      await pressComposed(field, ['Enter', 'Escape']);
      await expect(field).toHaveValue(typed);
      await expect(page.locator('.chip')).toHaveCount(0);
      await field.press('Escape');
      await expect(field).not.toHaveValue(typed);
    }
  });

  test('in a dialog', async ({ page }) => {
    await open(page);
    await page.locator('.presets button').last().click();
    await page.getByRole('menuitem').first().click();
    const field = page.getByRole('dialog').getByRole('textbox');
    await field.fill('日本');
    await pressComposed(field);
    await expect(field).toHaveValue('日本');
    await field.press('Escape');
    await expect(page.getByRole('dialog')).toHaveCount(0);
  });

  test('while an answer comes', async ({ page }) => {
    await open(page, '?rate=10');
    await startAnswer(page);
    await pressComposed(composer(page));
    await pressComposed(page.getByRole('searchbox'));
    await isAnswering(page);
    await composer(page).press('Escape');
    await finished(page);
  });
});

test('Escape in a field is for the field, not for the answer', async ({ page }) => {
  await open(page, '?rate=10');
  await startAnswer(page);
  await page.getByRole('searchbox').focus();
  await page.keyboard.press('Escape');
  const number = page.getByRole('textbox', { name: 'Top-p' });
  await number.fill('0.5');
  await number.press('Escape');
  await expect(number).toHaveValue('0.95');
  await page.getByRole('textbox', { name: 'Stop strings' }).fill('x');
  await page.keyboard.press('Escape');
  await page.getByRole('textbox', { name: 'Seed' }).fill('1');
  await page.keyboard.press('Escape');
  await page.getByRole('textbox', { name: 'System prompt' }).focus();
  await page.keyboard.press('Escape');
  await isAnswering(page);
  await composer(page).focus();
  await page.keyboard.press('Escape');
  await finished(page);
});

test.describe('shortcuts', () => {
  for (const [layout, key] of [
    ['Russian', 'л'],
    ['Greek', 'κ'],
    ['Arabic', 'ن'],
    ['Hebrew', 'ל']
  ] as const) {
    test(`work on a ${layout} keyboard`, async ({ page }) => {
      await open(page);
      expect(await press(page, { key, code: 'KeyK', ctrlKey: true })).toBe(true);
      await expect(page.getByRole('searchbox')).toBeFocused();
      await press(page, { key: 'б', code: 'Comma', ctrlKey: true });
      await expect(page.getByRole('heading', { name: 'Settings', level: 1 })).toBeVisible();
      await press(page, { key: 'Щ', code: 'KeyO', ctrlKey: true, shiftKey: true });
      await expect(composer(page)).toBeFocused();
    });
  }

  test('go by what is printed on a Latin keyboard, and leave AltGr alone', async ({ page }) => {
    await open(page);
    // Dvorak has t where others have k.
    expect(await press(page, { key: 't', code: 'KeyK', ctrlKey: true })).toBe(false);
    expect(await press(page, { key: 'k', code: 'KeyV', ctrlKey: true, altKey: true })).toBe(false);
    await expect(page.getByRole('searchbox')).not.toBeFocused();
    expect(await press(page, { key: 'k', code: 'KeyV', ctrlKey: true })).toBe(true);
    await expect(page.getByRole('searchbox')).toBeFocused();
  });
});

test('Ctrl Z undoes what was typed before it brings back what was deleted', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  await answers(page).getByRole('button', { name: 'More options for answer' }).click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await expect(answers(page)).toHaveCount(0);
  await composer(page).focus();
  await page.keyboard.type('abc');
  await page.keyboard.press('Control+a');
  await page.keyboard.press('Delete');
  await expect(composer(page)).toHaveValue('');
  await page.keyboard.press('Control+z');
  await expect(composer(page)).toHaveValue('abc');
  await expect(answers(page)).toHaveCount(0);
  await page.keyboard.press('Control+z');
  await expect(composer(page)).toHaveValue('');
  await expect(answers(page)).toHaveCount(0);
  await page.keyboard.press('Control+Shift+Z');
  await expect(composer(page)).toHaveValue('abc');
  await page.keyboard.press('Control+z');
  await page.keyboard.press('Control+z');
  await expect(answers(page)).toHaveCount(1);
});

test('Ctrl Z undoes typing in every field', async ({ page }) => {
  await open(page);
  for (const field of [
    composer(page),
    page.getByRole('searchbox'),
    page.getByRole('textbox', { name: 'System prompt' }),
    page.getByRole('textbox', { name: 'Stop strings' })
  ]) {
    await field.focus();
    await page.keyboard.type('abc');
    // In one step or in several, as the engine groups it.
    for (let step = 0; step < 3 && (await field.inputValue()) !== ''; step++) await page.keyboard.press('Control+z');
    await expect(field).toHaveValue('');
    for (let step = 0; step < 3 && (await field.inputValue()) !== 'abc'; step++) await page.keyboard.press('Control+y');
    await expect(field).toHaveValue('abc');
    await field.fill('');
  }
  await page.getByRole('link', { name: 'Regex for ISO dates' }).dblclick();
  await page.keyboard.type('abc');
  await page.keyboard.press('Control+z');
  await expect(page.locator('nav .row input')).toHaveValue('Regex for ISO dates');
});

test('Ctrl and plus, minus, nought and the wheel zoom, and it is kept', async ({ page }) => {
  await open(page);
  const zoom = () => page.evaluate(() => window.octetFake?.settings.appearance.zoom);
  for (const [init, expected] of [
    [{ key: '+', code: 'BracketRight' }, 110],
    [{ key: '=', code: 'Equal' }, 125],
    [{ key: '+', code: 'Equal', shiftKey: true }, 150],
    [{ key: '-', code: 'Digit6' }, 125],
    [{ key: 'à', code: 'Digit0' }, 100],
    [{ key: '-', code: 'NumpadSubtract' }, 90]
  ] as const) {
    expect(await press(page, { ...init, ctrlKey: true })).toBe(true);
    await expect.poll(zoom).toBe(expected);
  }
  await expect(page.getByRole('log', { name: 'Announcements' })).toContainText('Zoom 90');
  await page.evaluate(() =>
    document.body.dispatchEvent(new WheelEvent('wheel', { deltaY: -120, ctrlKey: true, bubbles: true, cancelable: true }))
  );
  await expect.poll(zoom).toBe(100);
  await page.evaluate(() => document.body.dispatchEvent(new WheelEvent('wheel', { deltaY: -120, bubbles: true, cancelable: true })));
  await page.goto('/#/settings');
  await page.getByRole('button', { name: 'Zoom in' }).click();
  await expect.poll(zoom).toBe(110);
  await page.getByRole('button', { name: 'Actual size' }).click();
  await expect.poll(zoom).toBe(100);
});

test('Ctrl A outside a field selects the chat and nothing else', async ({ page }) => {
  await open(page);
  await page.getByRole('link', { name: 'Trip to Lisbon in March' }).click();
  await expect(answers(page)).toHaveCount(1);
  await page.locator('.thread').focus();
  await page.keyboard.press('Control+a');
  const selected = () => page.evaluate(() => getSelection()?.toString() ?? '');
  expect(await selected()).toContain('Alfama on foot');
  expect(await selected()).not.toMatch(/Regenerate|Copy|Regex for ISO dates|tokens\/s/);
  await page.keyboard.press('Control+c');
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(
    'Three days in Lisbon in March: what would you do?\n\nAlfama on foot, Belém by tram, and a day in Sintra.'
  );
  await page.goto('/#/settings');
  await page.locator('main').focus();
  await page.evaluate(() => getSelection()?.removeAllRanges());
  await page.keyboard.press('Control+a');
  expect(await selected()).toBe('');
  await page.goto('/#/');
  await composer(page).fill('in the field');
  await page.keyboard.press('Control+a');
  await page.keyboard.press('Delete');
  await expect(composer(page)).toHaveValue('');
});
