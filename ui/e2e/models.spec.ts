import type { Locator, Page } from '@playwright/test';
import { answers, ask, composer, expect, expectAccessible, expectNoSidewaysScroll, finished, open, test } from './page';

const MIXTRAL = 'Mixtral 8x7B Instruct, offloading demo';
const card = (page: Page, name: string): Locator => page.getByRole('article', { name, exact: true });
const list = (page: Page, name: string): Locator => page.getByRole('list', { name });
const share = async (bar: Locator): Promise<number> => Number(await bar.getAttribute('aria-valuenow'));
const witness = (page: Page) => page.evaluate(() => ({ ...window.octetFake, token: window.octetFake?.token() }));

test('a download is paused, resumed and loaded with one click', async ({ page }) => {
  await open(page, '?model=none&loadMs=200&downloadMs=5000#/models');
  const offer = card(page, MIXTRAL);
  await expect(offer).toContainText('fits this machine');
  await expect(offer).toContainText('18.2 GB in 259 files, license Apache 2.0');
  await expect(offer).toContainText('Needs 18.2 GB of disk space (143 GB free).');
  await expect(offer).toContainText('Plan: 4 experts per layer on the GPU.');
  await expect(offer).toContainText('Tokenizer: mobiuslabsgmbh/');
  await offer.getByRole('button', { name: 'Download' }).click();

  const download = list(page, 'Downloads').getByRole('article', { name: MIXTRAL });
  const bar = download.getByRole('progressbar');
  await expect(download).toContainText('GB/s');
  await expect(download).toContainText(/\d+ of 259 files/);
  await expect.poll(() => share(bar)).toBeGreaterThan(10);
  await expect(page.getByRole('link', { name: 'Models' })).toContainText('%');
  await download.getByRole('button', { name: 'Pause' }).click();
  await expect(download).toContainText('paused');
  const resting = await share(bar);
  await page.waitForTimeout(600);
  expect(await share(bar)).toBe(resting);
  await download.getByRole('button', { name: 'Resume' }).click();

  await expect(list(page, 'Downloads')).toHaveCount(0);
  await page.getByRole('status').getByRole('button', { name: 'Load' }).click();
  const installed = list(page, 'Installed').getByRole('article', { name: MIXTRAL });
  await expect(installed.getByRole('button', { name: 'Chat' })).toBeVisible();
  await expect(list(page, 'Available').getByRole('article', { name: MIXTRAL })).toHaveCount(0);
});

// The focus fell to nothing with the button that was pressed: the next Tab began at the top of the page.
test('who presses a button keeps their place', async ({ page }) => {
  await open(page, '?model=none&loadMs=600&downloadMs=20000&taskMs=800&token=session#/models');
  const press = async (button: Locator, key = 'Enter') => {
    await button.focus();
    await page.keyboard.press(key);
  };
  const download = list(page, 'Downloads').getByRole('article', { name: MIXTRAL });
  await press(card(page, MIXTRAL).getByRole('button', { name: 'Download' }));
  await expect(download).toBeFocused();
  await press(download.getByRole('button', { name: 'Pause' }));
  await expect(download.getByRole('button', { name: 'Resume' })).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(download.getByRole('button', { name: 'Pause' })).toBeFocused();
  await expect.poll(() => share(download.getByRole('progressbar'))).toBeGreaterThan(1);
  await press(download.getByRole('button', { name: 'Cancel' }));
  await press(page.getByRole('alertdialog').getByRole('button', { name: 'Cancel download' }));
  await expect(page.getByRole('heading', { name: 'Installed' })).toBeFocused();

  const linked = card(page, 'Mixtral 8x7B Instruct');
  await press(linked.getByRole('button', { name: 'Check files' }));
  await expect(linked.getByRole('progressbar')).toBeVisible();
  await expect(linked.getByRole('button', { name: 'Check files' })).toBeFocused();
  await press(linked.getByRole('button', { name: 'Cancel' }));
  await expect(linked).toBeFocused();
  await press(linked.getByRole('button', { name: 'Load', exact: true }));
  await expect(linked.getByRole('button', { name: 'Cancel' })).toBeFocused();
  await expect(linked.getByRole('button', { name: 'Chat' })).toBeFocused();
  await press(linked.getByRole('button', { name: 'Unload' }));
  await expect(linked).toBeFocused();
  await expect(linked.getByRole('button', { name: 'Load', exact: true })).toHaveAccessibleDescription('Mixtral 8x7B Instruct');
  await press(linked.getByRole('button', { name: 'Remove from list' }));
  await press(page.getByRole('alertdialog').getByRole('button', { name: 'Remove from list' }));
  await expect(card(page, 'Nous Hermes 2 Mixtral')).toBeFocused();
  await press(page.getByRole('button', { name: 'Remove', exact: true }));
  await expect(page.getByLabel('Access token')).toBeFocused();

  await open(page, '?first=1&model=none&downloadMs=20000');
  await press(card(page, MIXTRAL).getByRole('button', { name: 'Download' }));
  await expect(card(page, MIXTRAL)).toBeFocused();
});

test('a focus that was given up is not taken back', async ({ page }) => {
  await open(page, '?downloads=queued,running#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Pause' }).focus();
  await page.getByRole('banner').click({ position: { x: 2, y: 2 } });
  // As a task of its own, after those that the click set off: on a busy machine these may still wait.
  await page.evaluate(
    () =>
      new Promise<void>((removed) => {
        setTimeout(() => {
          document.querySelector('main article')?.closest('li')?.remove();
          removed();
        }, 50);
      })
  );
  await page.waitForTimeout(200);
  expect(await page.evaluate(() => document.activeElement?.tagName)).toBe('BODY');
});

test('a model that loads keeps its card in shape', async ({ page }) => {
  await page.setViewportSize({ width: 800, height: 600 });
  await open(page, '?lang=de&model=loading&loadMs=60000#/models');
  const loading = card(page, 'Mixtral 8x7B Instruct');
  const widthOf = async (part: Locator) => (await part.boundingBox())?.width ?? 0;
  expect(await widthOf(loading.locator('.about'))).toBeGreaterThan(280);
  expect(await widthOf(loading.getByRole('progressbar'))).toBeGreaterThan((await widthOf(loading)) * 0.8);
  for (const badge of await page.locator('main .badge').all()) {
    expect((await badge.boundingBox())?.height).toBeLessThan(26);
  }
});

test('cancelling asks first and says what is lost', async ({ page }) => {
  await open(page, '?downloads=running#/models');
  const download = card(page, MIXTRAL);
  await download.getByRole('button', { name: 'Cancel' }).click();
  const dialog = page.getByRole('alertdialog');
  await expect(dialog).toContainText('The 7.5 GB downloaded so far will be deleted.');
  await expectAccessible(page);
  await dialog.getByRole('button', { name: 'Keep downloading' }).click();
  await expect(download.getByRole('progressbar')).toBeVisible();
  await download.getByRole('button', { name: 'Cancel' }).click();
  await dialog.getByRole('button', { name: 'Cancel download' }).click();
  await expect(download.getByRole('button', { name: 'Download' })).toBeVisible();
  await expect(page.getByText(`${MIXTRAL} downloaded`)).toHaveCount(0);
});

test('one comes after the other', async ({ page }) => {
  await open(page, '?downloadMs=1500#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  await card(page, 'Mixtral 8x7B, 3-bit experts').getByRole('button', { name: 'Download' }).click();
  await expect(card(page, 'Mixtral 8x7B, 3-bit experts')).toContainText('waiting for another download');
  await expect(list(page, 'Downloads').getByRole('article')).toHaveCount(2);
  await expect(list(page, 'Downloads')).toHaveCount(0);
  await expect(list(page, 'Installed').getByRole('article')).toHaveCount(5);
});

test('a failure says what to do, and trying again goes on from there', async ({ page }) => {
  await open(page, '?downloadMs=2500&fail=download:gated#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  const download = card(page, MIXTRAL);
  const note = download.getByRole('alert');
  await expect(note).toContainText('The model’s terms must be accepted first.');
  await expect(note).toContainText('mistralai/Mixtral-8x7B-Instruct-v0.1 is gated');
  await expect(note).toContainText('enter a token of the same account');
  await note.getByRole('button', { name: 'View on Hugging Face' }).click();
  expect((await witness(page)).opened).toEqual(['https://huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1']);
  await note.getByRole('button', { name: 'Enter a token' }).click();
  await expect(page.getByLabel('Access token')).toBeFocused();
  await expect.poll(() => share(download.getByRole('progressbar'))).toBeGreaterThanOrEqual(30);
  await download.getByRole('button', { name: 'Try again' }).click();
  await expect(list(page, 'Installed').getByRole('article', { name: MIXTRAL })).toBeVisible();
});

test('what passes by itself is shown while it lasts', async ({ page }) => {
  await open(page, '?downloadMs=2000&fail=retry:network#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  const download = card(page, MIXTRAL);
  await expect(download).toContainText(/interrupted, retrying in \d\ss/);
  await expect(download).toContainText('huggingface.co does not answer');
  await expect(list(page, 'Installed').getByRole('article', { name: MIXTRAL })).toBeVisible();

  await open(page, '?downloads=stalled#/models');
  await expect(card(page, MIXTRAL)).toContainText('nothing received for 34 s, reconnecting');
  await open(page, '?downloads=interrupted#/models');
  await expect(card(page, MIXTRAL)).toContainText('paused: Octet was closed during the download');
});

test('a disk that is too small is said before anything is fetched', async ({ page }) => {
  await open(page, '?disk=small#/models');
  await expect(card(page, MIXTRAL)).toContainText('not enough disk space');
  await expect(card(page, MIXTRAL)).toContainText('move the models folder below to a larger disk');
  await expect(card(page, MIXTRAL).getByRole('button', { name: 'Download' })).toBeDisabled();
});

test('lists rest while bytes arrive', async ({ page }) => {
  await open(page, '?downloadMs=20000#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  await expect.poll(() => share(card(page, MIXTRAL).getByRole('progressbar'))).toBeGreaterThan(1);
  const changes = await page.evaluate(async () => {
    let count = 0;
    const observer = new MutationObserver((records) => (count += records.length));
    for (const name of ['Installed', 'Available']) {
      const watched = document.querySelector(`ul[aria-label="${name}"]`);
      if (watched) observer.observe(watched, { subtree: true, childList: true, attributes: true, characterData: true });
    }
    await new Promise((resolve) => setTimeout(resolve, 1500));
    return count;
  });
  expect(changes).toBe(0);
});

test('any repository is found by its name or address', async ({ page }) => {
  await open(page, '#/models');
  await page.getByRole('button', { name: 'Add from Hugging Face' }).click();
  const field = page.getByRole('textbox', { name: 'Another model from Hugging Face' });
  await expect(field).toBeFocused();
  await field.fill('ada/nothing');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('alert')).toContainText('This repository does not exist.');
  await page.getByRole('alert').getByRole('button', { name: 'Enter a token' }).click();
  await expect(page.getByLabel('Access token')).toBeFocused();
  await field.fill('ada/some-gguf');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('alert')).toContainText('Octet can’t run this model.');
  await field.fill('https://huggingface.co/ada/Nous-Hermes-2-Mixtral-8x7B-HQQ/tree/main');
  await page.keyboard.press('Enter');
  const found = card(page, 'Nous-Hermes-2-Mixtral-8x7B-HQQ');
  await expect(found).toContainText('no license stated');
  await expect(found).toContainText(/Too large: The model needs 96\s?GB of RAM, 78\s?GB more than the limit of 18\s?GB\./);
  await expect(page.getByRole('alert')).toHaveCount(0);
  await found.getByRole('button', { name: /^View on Hugging Face/ }).click();
  expect((await witness(page)).opened).toEqual(['https://huggingface.co/ada/Nous-Hermes-2-Mixtral-8x7B-HQQ']);
  await found.getByRole('button', { name: 'Download' }).click();
  const download = list(page, 'Downloads').getByRole('article', { name: 'Nous-Hermes-2-Mixtral-8x7B-HQQ' });
  await expect(download.getByRole('button', { name: 'Pause' })).toBeInViewport({ ratio: 1 });
});

test('a loaded model is not deleted, and deleting says what it frees', async ({ page }) => {
  await open(page, '?model=none&loadMs=100&downloadMs=600#/models');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  const model = list(page, 'Installed').getByRole('article', { name: MIXTRAL });
  await model.getByRole('button', { name: 'Load' }).click();
  await expect(model.getByRole('button', { name: 'Chat' })).toBeVisible();
  const dialog = page.getByRole('alertdialog');
  await model.getByRole('button', { name: 'Delete' }).click();
  await expect(dialog).toContainText('A loaded model can’t be deleted.');
  await dialog.getByRole('button', { name: 'Unload' }).click();
  await expect(model.getByRole('button', { name: 'Load' })).toBeVisible();
  await model.getByRole('button', { name: 'Delete' }).click();
  await expect(dialog).toContainText('This frees 18.2 GB of disk space.');
  await dialog.getByRole('button', { name: 'Keep' }).click();
  await expect(model).toBeVisible();
  await model.getByRole('button', { name: 'Delete' }).click();
  await dialog.getByRole('button', { name: 'Delete' }).click();
  await expect(model).toHaveCount(0);
  await expect(page.getByText('was deleted; 18.2 GB freed')).toBeVisible();
  await expect(list(page, 'Available').getByRole('article', { name: MIXTRAL })).toBeVisible();
});

test('what cannot be deleted says why', async ({ page }) => {
  await open(page, '?model=none&fail=deleteModel:inUse#/models');
  const model = card(page, 'Nous Hermes 2 Mixtral');
  await model.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click();
  await expect(model.getByRole('alert')).toContainText('It is in use.');
});

test('checking files can be ended, and tells what it could compare', async ({ page }) => {
  await open(page, '?taskMs=1200&downloadMs=600#/models');
  const linked = card(page, 'Mixtral 8x7B Instruct');
  await expect(linked).toContainText('checked 3 days ago');
  await linked.getByRole('button', { name: 'Check files' }).click();
  await expect(linked.getByRole('progressbar', { name: 'Checking Mixtral 8x7B Instruct' })).toBeVisible();
  await linked.getByRole('button', { name: 'Cancel' }).click();
  await expect(linked.getByRole('progressbar')).toHaveCount(0);
  await expect(linked.getByRole('alert')).toHaveCount(0);
  await linked.getByRole('button', { name: 'Check files' }).click();
  await expect(linked).toContainText('No checksums are known for its files.');

  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  const model = list(page, 'Installed').getByRole('article', { name: MIXTRAL });
  await model.getByRole('button', { name: 'Check files' }).click();
  await expect(model).toContainText('All 257 files match the published ones: 18.2 GB compared. No checksum is known for 2 files.');
  await expect(model).toContainText('checked today');
});

test('a bad file is named and repaired', async ({ page }) => {
  await open(page, '?taskMs=300&verify=bad&downloadMs=1200#/models');
  const damaged = list(page, 'Installed').getByRole('article', { name: 'Nous Hermes 2 Mixtral' });
  await damaged.getByRole('button', { name: 'Check files' }).click();
  await expect(damaged).toContainText('model-00017-of-00257.safetensors: differs from the published one');
  await damaged.getByRole('button', { name: 'Repair' }).click();
  const download = list(page, 'Downloads').getByRole('article', { name: 'Nous Hermes 2 Mixtral' });
  await expect(download).toContainText('repair');
  await expect(damaged).toContainText('being repaired');
  await expect(download).toHaveCount(0);
  await expect(damaged).not.toContainText('damaged');
  await expect(damaged.getByRole('button', { name: 'Load' })).toBeVisible();
});

test('a file that only a check finds bad keeps the model from being loaded', async ({ page }) => {
  await open(page, '?model=none&taskMs=300&verify=bad#/models');
  const linked = card(page, 'Mixtral 8x7B Instruct');
  await expect(linked.getByRole('button', { name: 'Load' })).toBeVisible();
  await linked.getByRole('button', { name: 'Check files' }).click();
  await expect(linked).toContainText('This model is damaged and can’t be used.');
  await expect(linked).toContainText('Put the correct files into its folder, or remove it from the list.');
  await expect(linked.getByRole('button', { name: 'Load' })).toHaveCount(0);
  await expect(linked.getByRole('button', { name: 'Repair' })).toHaveCount(0);
});

test('a damaged model says what is wrong and is not loaded', async ({ page }) => {
  await open(page, '#/models');
  const model = card(page, 'Nous Hermes 2 Mixtral');
  await expect(model).toContainText('This model is damaged and can’t be used.');
  await expect(model).toContainText('41,231,872 bytes instead of 66,401,280');
  await expect(model).toContainText('model-00017-of-00257.safetensors');
  await expect(model.getByRole('button', { name: 'Load' })).toHaveCount(0);
  await model.getByRole('button', { name: 'Show folder' }).click();
  expect((await witness(page)).opened).toEqual(['/home/ada/.cache/huggingface/hub/models--ada--Nous-Hermes-2-Mixtral-3bit/snapshots/main']);
});

test('a folder is used where it is, and forgotten again', async ({ page }) => {
  await open(page, '?model=none#/models');
  await page.getByRole('button', { name: 'Import a folder…' }).click();
  const dialog = page.getByRole('dialog');
  await expect(dialog).toContainText('/home/ada/models/mixtral-offloading');
  await expect(dialog.getByRole('radio', { name: 'Use it where it is' })).toBeChecked();
  await expectAccessible(page);
  await dialog.getByRole('button', { name: 'Import' }).click();
  const model = card(page, 'mixtral-offloading');
  await expect(model).toContainText('linked on');
  expect((await witness(page)).imports).toEqual([['/home/ada/models/mixtral-offloading', 'link']]);
  await model.getByRole('button', { name: 'Remove from list' }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Remove from list' }).click();
  await expect(model).toHaveCount(0);
  await expect(page.getByText('Its files are still in')).toBeVisible();
});

test('a folder is copied, with the keyboard alone', async ({ page }) => {
  await open(page, '?model=none&taskMs=900#/models');
  await page.getByRole('button', { name: 'Import a folder…' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('radio', { name: 'Use it where it is' }).focus();
  await page.keyboard.press('ArrowDown');
  await expect(page.getByRole('radio', { name: 'Copy it into the models folder' })).toBeChecked();
  await page.getByRole('button', { name: 'Import', exact: true }).focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('progressbar', { name: 'Copying mixtral-offloading' })).toBeVisible();
  await expect(card(page, 'mixtral-offloading')).toContainText('copied here on');
  expect((await witness(page)).imports).toEqual([['/home/ada/models/mixtral-offloading', 'copy']]);
});

test('a folder without a model is refused beside the button', async ({ page }) => {
  await open(page, '?fail=importModel:foreign#/models');
  await page.getByRole('button', { name: 'Import a folder…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Import' }).click();
  await expect(page.getByRole('alert')).toContainText('Octet can’t run this model.');
  await page.getByRole('alert').getByRole('button', { name: 'Dismiss' }).click();
  await expect(page.getByRole('alert')).toHaveCount(0);
});

test('the models folder moves, but not under a download', async ({ page }) => {
  await open(page, '?taskMs=900#/models');
  await expect(page.getByText('The Hugging Face cache, shared with other programs.')).toBeVisible();
  await page.getByRole('button', { name: 'Move…' }).click();
  const dialog = page.getByRole('alertdialog');
  await expect(dialog).toContainText('22.9 GB of models will be moved to /home/ada/models/mixtral-offloading');
  await dialog.getByRole('button', { name: 'Move' }).click();
  await expect(page.getByRole('progressbar', { name: 'Moving models' })).toBeVisible();
  await expect(page.getByText('Chosen by you.')).toBeVisible();
  await expect(page.getByText('Models are now stored in /home/ada/models/mixtral-offloading')).toBeVisible();

  await open(page, '?downloads=running#/models');
  await page.getByRole('button', { name: 'Move…' }).click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Move' }).click();
  await expect(page.getByRole('alert')).toContainText('Models folder: a download is using it.');
});

test('a models folder without models moves none', async ({ page }) => {
  await open(page, '?first=1&model=none#/models');
  await page.getByRole('button', { name: 'Move…' }).click();
  await expect(page.getByRole('alertdialog')).toContainText('There are no models in the old folder.');
});

test('a token is kept, tried, never shown again, and removed', async ({ page }) => {
  await open(page, '#/models');
  const field = page.getByLabel('Access token');
  await expect(field).toHaveAttribute('type', 'password');
  await field.fill('hf_secret123');
  await page.keyboard.press('Enter');
  await expect(page.getByText('Stored in the system keyring.')).toBeVisible();
  await expect(page.getByText('The token works. Account: ada')).toBeVisible();
  await expect(field).toHaveValue('');
  expect(await page.content()).not.toContain('hf_secret123');
  const seen = await witness(page);
  expect(seen.token).toBe('hf_secret123');
  expect(JSON.stringify(seen.settings)).not.toContain('hf_secret123');
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await expect(page.getByText('Needed only for gated models')).toBeVisible();
  expect((await witness(page)).token).toBeNull();
});

test('a keyring that asks for its password is waited for', async ({ page }) => {
  await open(page, '?keyringMs=1500#/models');
  await page.getByLabel('Access token').fill('hf_secret123');
  await page.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('Waiting for the keyring…')).toBeVisible();
  await expect(page.getByText('The token works. Account: ada')).toBeVisible();
  await expect(page.getByText('Waiting for the keyring…')).toHaveCount(0);
});

test('where there is no keyring it is said, and a wrong token is refused', async ({ page }) => {
  await open(page, '?keyring=0#/models');
  await page.getByLabel('Access token').fill('wrong');
  await page.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('No keyring is available; the token is kept until Octet closes.')).toBeVisible();
  await expect(page.getByText('could not be saved in the keyring: there is none')).toBeVisible();
  await expect(page.getByRole('alert')).toContainText('The access token is invalid.');
  await open(page, '?token=environment#/models');
  await expect(page.getByText('From the environment variable HF_TOKEN.')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Remove', exact: true })).toHaveCount(0);
});

test('a mirror is chosen and given up', async ({ page }) => {
  await open(page, '#/models');
  const field = page.getByRole('textbox', { name: 'Hub or mirror' });
  await field.fill('mirror');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('alert')).toBeVisible();
  await field.fill('https://mirror.example');
  await page.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('A mirror you chose.')).toBeVisible();
  await expect(page.getByRole('alert')).toHaveCount(0);
  await expect(field).toHaveValue('https://mirror.example');
  await page.getByRole('button', { name: 'Reset', exact: true }).click();
  await expect(field).toHaveValue('https://huggingface.co');
});

test('the first page downloads the model while the demo answers', async ({ page }) => {
  await open(page, '?first=1&model=none&gpu=0&loadMs=200&rate=2000&downloadMs=6000');
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  await expect(card(page, MIXTRAL).getByRole('progressbar')).toBeVisible();
  await expect(page.getByText('The download continues while you chat with the demo')).toBeVisible();
  await page.getByRole('button', { name: 'Try the demo model' }).click();
  await expect(composer(page)).toBeVisible();
  await ask(page, 'What is Octet?');
  await finished(page);
  await expect(answers(page)).toContainText('Octet is a chat program');
  await expect(page.getByText(`${MIXTRAL} downloaded`)).toBeVisible();
  await page.getByRole('status').getByRole('button', { name: 'Load' }).click();
  await expect(page.getByText('CPU, 245 of 256 experts in RAM').or(page.getByText(/CPU, \d+ of 256 experts in RAM/))).toBeVisible();
});

test('the first page offers the full model first, once it is here', async ({ page }) => {
  await open(page, '?first=1&model=none&loadMs=200&downloadMs=800');
  await expect(page.getByRole('heading', { name: /^Plan for/ })).toHaveCount(0);
  await card(page, MIXTRAL).getByRole('button', { name: 'Download' }).click();
  const load = page.getByRole('button', { name: `Load ${MIXTRAL}` });
  await expect(load).toHaveClass(/primary/);
  await expect(page.getByRole('button', { name: 'Try the demo model' })).not.toHaveClass(/primary/);
  await expect(page.getByRole('heading', { name: 'Get the full model' })).toHaveCount(0);
  await expect(page.getByRole('heading', { name: `Plan for ${MIXTRAL}` })).toBeVisible();
  await page.setViewportSize({ width: 360, height: 640 });
  await expect.poll(() => load.evaluate((one) => one.getBoundingClientRect().right)).toBeLessThan(344);
  await load.click();
  await expect(composer(page)).toBeVisible();
  await expect(page.getByText('GPU 4 of 8 experts per layer')).toBeVisible();
});

const STATES = '?downloads=running,queued,paused,stalled,retrying,network,gated&token=session&disk=small';

for (const theme of ['light', 'dark'] as const) {
  test(`every state of a download, ${theme}: accessible, nothing cut off`, async ({ page }) => {
    await open(page, `${STATES}&theme=${theme}#/models`);
    await expect(list(page, 'Downloads').getByRole('article')).toHaveCount(7);
    for (const [width, height] of [
      [1440, 900],
      [360, 740],
      [3840, 2160]
    ] as const) {
      await page.setViewportSize({ width, height });
      await expectNoSidewaysScroll(page);
      await expectAccessible(page);
    }
  });
}

test('German leaves no English behind in any state', async ({ page }) => {
  await open(page, `${STATES}&lang=de#/models`);
  const text = await page.locator('main').evaluate((main) => {
    const copy = main.cloneNode(true) as HTMLElement;
    // What the program itself words in English is marked as such.
    for (const one of copy.querySelectorAll('[lang=en]')) one.remove();
    return copy.innerText;
  });
  expect(text.match(/\b(the|and|with|your|files|paused|left|free|loaded)\b/gi) ?? []).toEqual([]);
});
