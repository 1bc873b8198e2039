import { answers, ask, composer, expect, expectAccessible, expectNoSidewaysScroll, finished, open, test } from './page';

const SCREENS = [
  ['an empty chat', ''],
  ['a chat', '#chat'],
  ['experts', '#/experts'],
  ['models', '#/models'],
  ['settings', '#/settings'],
  ['the first start', '?first=1&model=none&gpu=0'],
  ['a failed load', '?model=failed'],
  ['a load', '?model=loading&loadMs=60000']
] as const;
const SIZES = { phone: [360, 740], desktop: [1440, 900], uhd: [3840, 2160] } as const;

for (const theme of ['light', 'dark'] as const) {
  for (const [name, address] of SCREENS) {
    test(`${name}, ${theme}: accessible, nothing cut off`, async ({ page }) => {
      const [query = '', hash = ''] = address.split('#');
      await open(page, `${query || '?'}&theme=${theme}${hash && hash !== 'chat' ? `#${hash}` : ''}`);
      if (hash === 'chat') {
        await page.getByRole('link', { name: 'Borrow checker and a linked list' }).click();
        await expect(answers(page).last()).toBeVisible();
      }
      for (const [width, height] of [SIZES.desktop, SIZES.phone]) {
        await page.setViewportSize({ width, height });
        await expectNoSidewaysScroll(page);
        await expectAccessible(page);
      }
    });
  }
}

test('4K shows every screen without sideways scrolling', async ({ page }) => {
  await page.setViewportSize({ width: SIZES.uhd[0], height: SIZES.uhd[1] });
  for (const address of ['', '#/experts', '#/models', '#/settings']) {
    await open(page, address);
    await expectNoSidewaysScroll(page);
  }
});

test('on a phone the sidebar and the settings are drawers', async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page);
  await page.getByRole('button', { name: 'Menu' }).click();
  await expectAccessible(page);
  await page.getByRole('dialog').getByRole('link', { name: 'Regex for ISO dates' }).click();
  await expect(page.getByRole('dialog')).toHaveCount(0);
  await expect(answers(page)).toBeVisible();
  await page.getByRole('button', { name: 'Settings panel' }).click();
  await expect(page.getByRole('slider', { name: 'Temperature' })).toBeVisible();
  await expectAccessible(page);
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toHaveCount(0);
});

test('the first start tells of the machine and leads to the demo', async ({ page }) => {
  await open(page, '?first=1&model=none&gpu=0&loadMs=300&rate=2000');
  await expect(page.getByRole('heading', { name: 'Welcome to Octet' })).toBeVisible();
  await expect(page.getByText('No NVIDIA driver was found')).toBeVisible();
  await expect(page.getByRole('article', { name: /offloading demo/ })).toContainText('18.2 GB in 259 files');
  await page.getByRole('button', { name: 'Try the demo model' }).click();
  await expect(composer(page)).toBeVisible();
  await ask(page, 'What is Octet?');
  await finished(page);
  await expect(answers(page)).toContainText('Octet is a chat program');
  await expect(page.getByText('CPU, all 48 experts in RAM')).toBeVisible();
});

test('the first start offers the demo and the download without scrolling', async ({ page }) => {
  await page.setViewportSize({ width: 1180, height: 780 });
  await open(page, '?first=1&model=none&gpu=0');
  await expect(page.getByRole('button', { name: 'Try the demo model' })).toBeInViewport({ ratio: 1 });
  await expect(page.getByRole('button', { name: 'Download' })).toBeInViewport({ ratio: 1 });
});

test('system prompt and stop strings are reset', async ({ page }) => {
  await open(page);
  await page.getByRole('textbox', { name: 'System prompt' }).fill('Answer in rhymes.');
  await page.getByRole('textbox', { name: 'Stop strings' }).fill('END');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Reset System prompt' }).click();
  await page.getByRole('button', { name: 'Reset Stop strings' }).click();
  await expect(page.getByRole('textbox', { name: 'System prompt' })).toHaveValue('');
  await expect.poll(() => page.evaluate(() => window.octetFake?.settings.sampling.stop)).toEqual([]);
});

test('the name of the model stays legible beside both panes', async ({ page }) => {
  await page.setViewportSize({ width: 1180, height: 780 });
  await open(page, '?lang=de');
  await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
  const name = page.getByRole('banner').getByText('Mixtral 8x7B Instruct');
  await expect(page.getByRole('banner').getByText('Kontext')).toBeVisible();
  expect(await name.evaluate((one) => one.scrollWidth - one.clientWidth)).toBeLessThanOrEqual(0);
});

test('a folder is imported from the first page and loaded from the models', async ({ page }) => {
  await open(page, '?first=1&model=none&loadMs=200');
  await page.getByRole('button', { name: 'Import a folder…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Import' }).click();
  await page.getByRole('navigation').getByRole('link', { name: 'Models', exact: true }).click();
  const card = page.getByRole('article', { name: 'mixtral-offloading' });
  await card.getByRole('button', { name: 'Load' }).click();
  await expect(card.getByText(/^GPU \d of 8 experts per layer/)).toBeVisible();
  await card.getByRole('button', { name: 'Unload' }).click();
});

test('a load that lacks memory shows the numbers, and loads anyway', async ({ page }) => {
  await open(page, '?model=none&loadMs=200&fail=loadModel:tooBig#/models');
  const card = page.getByRole('article', { name: 'Mixtral 8x7B Instruct', exact: true });
  await card.getByRole('button', { name: 'Load' }).click();
  await expect(card.getByRole('alert')).toContainText('18.9 GB');
  await card.getByRole('button', { name: 'Load anyway' }).click();
  await expect(card.getByRole('button', { name: 'Chat' })).toBeVisible();
  expect(await page.evaluate(() => window.octetFake?.forcedLoads)).toBe(1);
});

test('a load can be cancelled', async ({ page }) => {
  await open(page, '?model=none&loadMs=30000#/models');
  const card = page.getByRole('article', { name: 'Mixtral 8x7B Instruct', exact: true });
  await card.getByRole('button', { name: 'Load' }).click();
  await expect(card.getByRole('progressbar')).toBeVisible();
  await card.getByRole('button', { name: 'Cancel' }).click();
  await expect(page.getByText('No model loaded')).toBeVisible();
});

test('the experts move while an answer streams', async ({ page }) => {
  // Longer than the test takes on any machine.
  await open(page, '?rate=25&answer=long');
  await ask(page, 'How do experts work?');
  await expect(answers(page).last()).toContainText('paradox');
  await page.getByRole('link', { name: 'Experts', exact: true }).click();
  await expect(page.getByRole('gridcell')).toHaveCount(256);
  await expect.poll(() => page.locator('[role=gridcell]:is(.used, .missed)').count()).toBe(64);
  await expect(page.locator('polyline')).toBeVisible();
  await expect(page.getByText('Already on the GPU')).toBeVisible();
  await page.getByRole('gridcell', { name: /^Layer 0, expert 0:/ }).focus();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowRight');
  await expect(page.getByRole('gridcell', { name: /^Layer 1, expert 1:/ })).toBeFocused();
  await expect(page.locator('.details')).toContainText('Layer 1, expert 1');
  await expect(page.locator('.details')).toContainText('since loading');
  await page.getByRole('radio', { name: 'Usage' }).click();
  await expect(page.getByText('most used')).toBeVisible();
  await expectAccessible(page);
});

test('rings of experts and borders of fields are seen in both themes', async ({ page }) => {
  await page.setViewportSize({ width: 1180, height: 780 });
  for (const theme of ['light', 'dark']) {
    await open(page, `?theme=${theme}#/experts`);
    const contrast = (selector: string) =>
      page
        .locator(selector)
        .first()
        .evaluate((one) => {
          const luminance = (color: string) => {
            const [r = 0, g = 0, b = 0] = (color.match(/[\d.]+/g) ?? []).map((part) => (Number(part) / 255 + 0.055) ** 2.4 / 1.055 ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
          };
          let around = one.parentElement;
          while (around && getComputedStyle(around).backgroundColor === 'rgba(0, 0, 0, 0)') around = around.parentElement;
          const pair = [getComputedStyle(one).borderTopColor, getComputedStyle(around ?? document.body).backgroundColor].map(luminance);
          return Math.max(...pair) / Math.min(...pair);
        });
    for (const one of ['.grid .cell.disk', 'aside .input', 'aside .value input', 'aside .chips', 'aside .preset-trigger']) {
      expect(await contrast(one), `${one}, ${theme}`).toBeGreaterThan(3);
    }
    const shape = (place: string) =>
      page
        .locator(`.grid .cell.${place}`)
        .first()
        .evaluate((one) => getComputedStyle(one).borderTopColor);
    expect(await shape('ram')).not.toBe(await shape('disk'));
  }
});

test('a small model has a small grid', async ({ page }) => {
  await open(page, '?model=demo#/experts');
  await expect(page.getByRole('gridcell')).toHaveCount(48);
});

test('German leaves no English behind', async ({ page }) => {
  await open(page, '?lang=de&chats=0');
  for (const address of ['?lang=de&chats=0', '?lang=de&chats=0#/experts', '?lang=de&chats=0#/models', '?lang=de&chats=0#/settings']) {
    await open(page, address);
    await expect(page.locator('html')).toHaveAttribute('lang', 'de');
    const text = await page.locator('body').innerText();
    expect(text.match(/\b(the|and|with|your|layer|settings|chats yet|default|loading|experts a)\b/gi) ?? []).toEqual([]);
  }
});

test('German fits 360 px on every screen', async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  for (const [name, address] of [...SCREENS, ['damaged chats', '?notice=storeUnavailable'] as const]) {
    const [query = '', hash = ''] = address.split('#');
    await open(page, `${query || '?'}&lang=de${hash && hash !== 'chat' ? `#${hash}` : ''}`);
    if (hash === 'chat') {
      await page.getByRole('button', { name: 'Menü' }).click();
      await page.getByRole('link', { name: 'Why is the sky dark at night?' }).click();
      await expect(page.getByRole('article').last()).toBeVisible();
    }
    await test.step(name, async () => {
      await expectNoSidewaysScroll(page);
      const cut = await page
        .locator('main button, main a.btn, header button, .notices button')
        .evaluateAll((all) => all.filter((one) => one.getBoundingClientRect().right > window.innerWidth).map((one) => one.textContent));
      expect(cut).toEqual([]);
    });
  }
});

test('theme, text size and language act at once', async ({ page }) => {
  await open(page, '#/settings');
  await page.getByRole('radio', { name: 'Dark' }).click();
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'dark');
  await page.getByRole('slider', { name: 'Text size' }).focus();
  await page.keyboard.press('ArrowRight');
  await expect(page.locator('html')).toHaveCSS('font-size', '16px');
  await page.getByRole('combobox', { name: /^Language/ }).click();
  await page.getByRole('option', { name: 'Deutsch' }).click();
  await expect(page.getByRole('heading', { name: 'Einstellungen' })).toBeVisible();
  await expect.poll(() => page.evaluate(() => window.octetFake?.settings.appearance.language)).toBe('de');
});

test('presets are saved, chosen, renamed and deleted with undo', async ({ page }) => {
  await open(page);
  await page.getByRole('combobox', { name: /^Preset/ }).click();
  await page.getByRole('option', { name: 'Creative' }).click();
  await expect(page.getByRole('textbox', { name: 'Temperature' })).toHaveValue('1.00');
  const more = page.getByRole('button', { name: 'More options for presets' });
  await more.click();
  await page.getByRole('menuitem', { name: 'Save as preset' }).click();
  await page.getByRole('textbox', { name: 'Name' }).fill('Wild');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('combobox', { name: 'Preset: Wild' })).toBeVisible();
  await more.click();
  await page.getByRole('menuitem', { name: 'Delete preset' }).click();
  await expect(page.getByRole('combobox', { name: 'Preset: Creative' })).toBeVisible();
  await page.getByRole('button', { name: 'Undo' }).click();
  await page.getByRole('combobox', { name: /^Preset/ }).click();
  await expect(page.getByRole('option', { name: 'Wild' })).toBeVisible();
});

// Undone after another was saved under its name, there were two of it, and the list of presets broke.
test('a deleted preset is not brought back beside one that was saved under its name', async ({ page }) => {
  await open(page);
  const more = page.getByRole('button', { name: 'More options for presets' });
  const save = async () => {
    await more.click();
    await page.getByRole('menuitem', { name: 'Save as preset' }).click();
    await page.getByRole('textbox', { name: 'Name' }).fill('Mine');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('combobox', { name: 'Preset: Mine' })).toBeVisible();
  };
  await save();
  await more.click();
  await page.getByRole('menuitem', { name: 'Delete preset' }).click();
  await expect(page.getByRole('button', { name: 'Undo' })).toBeVisible();
  await save();
  await expect(page.getByRole('button', { name: 'Undo' })).toHaveCount(0);
});

test('a preset of a person’s own is replaced under its name', async ({ page }) => {
  await open(page);
  const more = page.getByRole('button', { name: 'More options for presets' });
  const name = page.getByRole('textbox', { name: 'Name' });
  const save = async (as: string) => {
    await more.click();
    await page.getByRole('menuitem', { name: 'Save as preset' }).click();
    await name.fill(as);
  };
  await save('balanced');
  await expect(page.getByText('A preset with this name already exists')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Save', exact: true })).toBeDisabled();
  await name.fill('Mine');
  await page.keyboard.press('Enter');
  await page.getByRole('textbox', { name: 'Top-p' }).fill('0.5');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('combobox', { name: 'Preset: Custom' })).toBeVisible();
  await more.click();
  // Red, it looked as if it could be pressed.
  const colorOf = (item: string) => page.getByRole('menuitem', { name: item }).evaluate((one) => getComputedStyle(one).color);
  expect(await colorOf('Delete preset')).toBe(await colorOf('Rename preset'));
  await page.getByRole('menuitem', { name: 'Save as preset' }).click();
  await expect(name).toHaveValue('Mine');
  await page.getByRole('button', { name: 'Replace' }).click();
  await expect(page.getByRole('combobox', { name: 'Preset: Mine' })).toBeVisible();
  await expect
    .poll(() => page.evaluate(() => window.octetFake?.settings.presets.map(({ name, sampling }) => [name, sampling.topP])))
    .toEqual([['Mine', 0.5]]);
});

test('the plan stays in sight while it is changed', async ({ page }) => {
  await open(page, '?loadMs=300');
  for (const [width, height] of [
    [1180, 780],
    [360, 640]
  ] as const) {
    await page.setViewportSize({ width, height });
    if (width < 700) await page.getByRole('button', { name: 'Settings panel' }).click();
    const slider = page.getByRole('slider', { name: 'Experts per layer on the GPU' });
    await slider.focus();
    await page.keyboard.press('ArrowLeft');
    const reload = page.getByRole('button', { name: 'Reload with these settings' });
    await expect(reload).toBeInViewport({ ratio: 1 });
    for (const name of ['Context length', 'VRAM budget', 'Threads']) {
      const field = page.getByRole('textbox', { name });
      await field.focus();
      expect(
        await field.evaluate((one) => {
          const { x, y } = one.getBoundingClientRect();
          return document.elementFromPoint(x + 9, y + 9) === one;
        })
      ).toBe(true);
    }
    await reload.focus();
    await page.keyboard.press('Enter');
    await expect(page.getByRole('group', { name: 'Memory Mixtral 8x7B Instruct needs:' })).toBeFocused();
    await expect(page.getByText('The model is loaded with these settings.')).toBeVisible();
  }
});

test('offload settings show the plan and reload with one press', async ({ page }) => {
  await open(page, '?loadMs=300');
  await page.getByRole('radio', { name: '12 GB' }).click();
  await page.getByRole('button', { name: 'Reload with these settings' }).click();
  await expect(page.getByText('GPU 3 of 8 experts per layer, RAM 5')).toBeVisible();
  await expect(page.getByText('The model is loaded with these settings.')).toBeVisible();
});

test('a notice of the start is shown and put away', async ({ page }) => {
  await open(page, '?notice=settingsUnreadable');
  await expect(page.getByText('The settings could not be read.')).toBeVisible();
  await page.getByRole('button', { name: 'Dismiss' }).click();
  await expect(page.getByText('The settings could not be read.')).toHaveCount(0);
});

test('where the chats were damaged, a backup is offered and takes their place', async ({ page }) => {
  await open(page, '?notice=storeRestored');
  await expect(page.getByText('The chat database was damaged.')).toBeVisible();
  await page.setViewportSize({ width: 360, height: 740 });
  await expectNoSidewaysScroll(page);
  await expectAccessible(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await page
    .getByRole('button', { name: /^Restore the backup from / })
    .first()
    .click();
  await expect(page.getByText('The previous chats are kept in')).toBeVisible();
  await expect(page.getByText('The chat database was damaged.')).toHaveCount(0);
  await expect(page.getByRole('link', { name: /^From .*chats-1\.db/ })).toBeVisible();
});

test('chats that cannot be opened are tried again', async ({ page }) => {
  await open(page, '?notice=storeUnavailable');
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByText('The chats can’t be opened.')).toHaveCount(0);
});

test('a backup that cannot be restored says why, and nothing is lost', async ({ page }) => {
  await open(page, '?notice=storeRestored&fail=restoreBackup:answerBusy');
  await page
    .getByRole('button', { name: /^Restore the backup from / })
    .first()
    .click();
  await expect(page.getByRole('alert')).toContainText('Another answer is being written');
  await expect(page.getByText('The chat database was damaged.')).toBeVisible();
});

test('a start that fails says why', async ({ page }) => {
  await page.goto('/?fail=loadSettings:storeDamaged');
  await expect(page.getByRole('alert')).toContainText('database disk image is malformed');
  await expect(page.getByRole('button', { name: 'Try again' })).toBeVisible();
});

test('help copies diagnostics and opens the logs', async ({ page }) => {
  await open(page, '#/settings');
  await page.getByRole('button', { name: 'Copy diagnostics' }).click();
  await expect(page.getByText('Diagnostics copied')).toBeVisible();
  expect(await page.evaluate(() => navigator.clipboard.readText())).toContain('Octet 0.1.0');
  await page.getByRole('button', { name: 'Open the logs folder' }).click();
  expect(await page.evaluate(() => window.octetFake?.opened)).toEqual(['logs']);
});
