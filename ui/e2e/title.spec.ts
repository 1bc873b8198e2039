import { ask, expect, finished, open, test } from './page';

// The window takes its title from the page: `on_document_title_changed` in the program.
const WORDS = {
  en: { fresh: 'New chat', experts: 'Experts', models: 'Models', settings: 'Settings', trash: 'Recently deleted', welcome: 'Welcome' },
  de: {
    fresh: 'Neuer Chat',
    experts: 'Experten',
    models: 'Modelle',
    settings: 'Einstellungen',
    trash: 'Zuletzt gelöscht',
    welcome: 'Willkommen'
  }
} as const;

for (const [language, words] of Object.entries(WORDS)) {
  test(`the title names what the window shows, ${language}`, async ({ page }) => {
    const row = (name: string) => page.getByRole('navigation').getByRole('link', { name, exact: true });
    await open(page, `?lang=${language}&rate=5000`);
    await expect(page).toHaveTitle(`${words.fresh} - Octet`);

    await row('Trip to Lisbon in March').click();
    await expect(page).toHaveTitle('Trip to Lisbon in March - Octet');
    await row('Regex for ISO dates').click();
    await expect(page).toHaveTitle('Regex for ISO dates - Octet');

    // Not a letter is lost that is typed as soon as the field is there.
    await row('Regex for ISO dates').press('F2');
    await page.keyboard.type('Dates');
    await page.keyboard.press('Enter');
    await expect(page).toHaveTitle('Dates - Octet');
    await row('Trip to Lisbon in March').press('F2');
    await page.keyboard.type('Porto');
    await page.keyboard.press('Enter');
    await expect(row('Porto')).toBeVisible();
    await expect(page).toHaveTitle('Dates - Octet');

    await row(words.fresh).click();
    await expect(page).toHaveTitle(`${words.fresh} - Octet`);
    await ask(page, 'What is Octet?');
    await expect(page).toHaveTitle('What is Octet? - Octet');
    await finished(page);

    for (const screen of ['experts', 'models', 'settings', 'trash', 'welcome'] as const) {
      await page.evaluate((hash) => (location.hash = hash), `#/${screen}`);
      await expect(page).toHaveTitle(`${words[screen]} - Octet`);
    }
    await row('Dates').click();
    await expect(page).toHaveTitle('Dates - Octet');
    await row('Dates').press('Delete');
    await expect(page).toHaveTitle(`${words.fresh} - Octet`);
    await page.keyboard.press('Control+z');
    await expect(page).toHaveTitle('Dates - Octet');
  });
}

test('the title follows the language', async ({ page }) => {
  await open(page, '#/settings');
  await expect(page).toHaveTitle('Settings - Octet');
  await page.getByRole('combobox', { name: /^Language/ }).click();
  await page.getByRole('option', { name: 'Deutsch' }).click();
  await expect(page).toHaveTitle('Einstellungen - Octet');
});
