import AxeBuilder from '@axe-core/playwright';
import { expect, test as base, type Page } from '@playwright/test';
import type { Witness } from '../src/lib/backend/fake';

declare global {
  interface Window {
    hacked?: number;
    octetFake?: Witness;
  }
}

/** Every test fails on an error of the page, a breach of the content policy, or a request to elsewhere. */
export const test = base.extend<{ complaints: string[] }>({
  complaints: [
    async ({ page, baseURL }, use) => {
      const complaints: string[] = [];
      page.on('pageerror', (error) => complaints.push(`error: ${error.message}`));
      page.on('console', (message) => {
        if (message.type() === 'error') complaints.push(`console: ${message.text()}`);
      });
      page.on('request', (request) => {
        if (!request.url().startsWith(`${baseURL}/`)) complaints.push(`request: ${request.url()}`);
      });
      await use(complaints);
      expect(complaints).toEqual([]);
    },
    { auto: true }
  ]
});

export { expect };

export async function open(page: Page, address = ''): Promise<void> {
  await page.goto(`/${address}`);
  await expect(page.getByRole('main')).toBeVisible();
  await expect(page.getByText('Octet is starting')).toHaveCount(0);
}

export const composer = (page: Page) => page.getByRole('textbox', { name: /^(Message|Nachricht an) / });
export const answers = (page: Page) => page.getByRole('article', { name: 'Answer' });

export async function ask(page: Page, question: string): Promise<void> {
  await composer(page).fill(question);
  await page.keyboard.press('Enter');
}

export async function finished(page: Page): Promise<void> {
  await expect(page.getByRole('button', { name: 'Stop', exact: true })).toHaveCount(0);
  await expect(page.locator('article[aria-busy=true]')).toHaveCount(0);
}

export async function expectAccessible(page: Page): Promise<void> {
  // Colours are measured when nothing is on its way from one to another.
  await page.evaluate(() => Promise.all(document.getAnimations().map((one) => one.finished.catch(() => undefined))));
  const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']).analyze();
  const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  expect(grave.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join('\n')}`)).toEqual([]);
}

/** No part of the page is cut off sideways. */
export async function expectNoSidewaysScroll(page: Page): Promise<void> {
  // What lies beside the chat moves away a moment after the window was made narrow.
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)).toBeLessThanOrEqual(0);
}
