import type { Page } from '@playwright/test';
import { answers, ask, expect, open, test } from './page';

/** Frame times of the page from now until it is read. */
async function startFrames(page: Page): Promise<void> {
  await page.evaluate(() => {
    const frames: number[] = [];
    let last = performance.now();
    const step = (now: number) => {
      frames.push(now - last);
      last = now;
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
    Object.assign(window, { frames });
  });
}

async function readFrames(page: Page): Promise<string> {
  const frames = await page.evaluate(() => (window as unknown as { frames: number[] }).frames.slice(2));
  const sorted = frames.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(1);
  return `${frames.length} frames, median ${at(0.5)} ms, 95% ${at(0.95)} ms, longest ${at(1)} ms`;
}

test('while an answer streams, only its last block is drawn again', async ({ page }) => {
  await open(page, '?rate=30&messages=2000');
  await page.getByRole('link', { name: 'A long chat' }).click();
  await expect(answers(page).last()).toBeVisible();
  await ask(page, 'How do experts work?');
  const answer = answers(page).last();
  await expect(answer).toContainText('A layer of Mixtral');
  await expect(page.locator('[data-math], article code[data-language]:not([data-language=""])')).toHaveCount(0);
  await page.evaluate(() => {
    const counts = { streaming: 0, finishedBlocks: 0, others: 0 };
    const streaming = document.querySelector('article[aria-busy=true]');
    const there = new Set<Element>(document.querySelectorAll('article'));
    new MutationObserver((records) => {
      for (const { target } of records) {
        const element = target instanceof Element ? target : target.parentElement;
        const article = element?.closest('article');
        // A row that comes into view is drawn for the first time: that is not drawing again.
        if (!element || !article || !streaming || !there.has(article)) continue;
        if (article !== streaming) counts.others++;
        else {
          const block = element.closest('.block');
          const isLast = !block || block === [...streaming.querySelectorAll('.block')].at(-1);
          if (isLast) counts.streaming++;
          else counts.finishedBlocks++;
        }
      }
    }).observe(document.body, { childList: true, characterData: true, subtree: true });
    Object.assign(window, { counts });
  });
  await startFrames(page);
  await page.waitForTimeout(3000);
  const counts = await page.evaluate(() => (window as unknown as { counts: Record<string, number> }).counts);
  console.log(`      30 tokens/s in a chat of 2,000: ${await readFrames(page)}; mutations ${JSON.stringify(counts)}`);
  expect(counts.streaming).toBeGreaterThan(10);
  expect(counts.others).toBe(0);
  expect(counts.finishedBlocks).toBeLessThanOrEqual(4);
});

test('a chat of 2,000 messages opens at its end and scrolls with few of them in the page', async ({ page }) => {
  await open(page, '?messages=2000');
  const start = Date.now();
  await page.getByRole('link', { name: 'A long chat' }).click();
  await expect(page.locator('[data-message]').last()).toBeInViewport();
  console.log(`      opened in ${Date.now() - start} ms`);
  const thread = page.getByRole('log', { name: 'Conversation' });
  await expect.poll(() => thread.evaluate((one) => one.scrollHeight - one.scrollTop - one.clientHeight)).toBeLessThan(60);
  await startFrames(page);
  for (let step = 0; step < 40; step++) {
    await thread.evaluate((one) => one.scrollBy(0, -1200));
    await page.waitForTimeout(30);
  }
  console.log(`      scrolling: ${await readFrames(page)}`);
  expect(await page.locator('[data-message]').count()).toBeLessThan(60);
  await page.getByRole('button', { name: 'Jump to latest' }).click();
  await expect(page.getByText('Question 1000 of this long chat')).toBeInViewport();
  await expect(page.getByRole('button', { name: 'Jump to latest' })).toHaveCount(0);
});

test('a stream is followed only at the end, and never pulls someone who reads above', async ({ page }) => {
  await open(page, '?rate=60&answer=long');
  await page.setViewportSize({ width: 1000, height: 500 });
  await ask(page, 'x');
  const thread = page.getByRole('log', { name: 'Conversation' });
  await expect.poll(() => thread.evaluate((one) => one.scrollHeight)).toBeGreaterThan(1400);
  await expect.poll(() => thread.evaluate((one) => one.scrollHeight - one.scrollTop - one.clientHeight)).toBeLessThan(60);
  await thread.hover();
  await page.mouse.wheel(0, -600);
  await expect(page.getByRole('button', { name: 'Jump to latest' })).toBeVisible();
  const before = await thread.evaluate((one) => one.scrollTop);
  await page.waitForTimeout(1200);
  expect(Math.abs((await thread.evaluate((one) => one.scrollTop)) - before)).toBeLessThan(4);
  await page.getByRole('button', { name: 'Jump to latest' }).click();
  await expect.poll(() => thread.evaluate((one) => one.scrollHeight - one.scrollTop - one.clientHeight)).toBeLessThan(60);
});

test('a download of 257 files keeps the page smooth', async ({ page }) => {
  await open(page, '?model=none&downloads=running&downloadMs=20000#/models');
  await expect(page.getByText(/ of 25\d files/)).toBeVisible();
  const size = () => page.evaluate(() => document.querySelectorAll('*').length);
  const before = await size();
  await startFrames(page);
  await page.waitForTimeout(3000);
  console.log(`      downloading 257 files: ${await readFrames(page)}`);
  expect(Math.abs((await size()) - before)).toBeLessThan(20);
});

test('a long chat is come back to where one was reading', async ({ page }) => {
  await open(page, '?messages=2000');
  await page.getByRole('link', { name: 'A long chat' }).click();
  await expect(answers(page).last()).toBeVisible();
  const thread = page.getByRole('log', { name: 'Conversation' });
  // Rows are measured and the end is found once more as they come.
  await page.waitForTimeout(500);
  await thread.hover();
  await page.mouse.wheel(0, -6000);
  await expect(page.getByRole('button', { name: 'Jump to latest' })).toBeVisible();
  await page.waitForTimeout(300);
  const read = await page
    .locator('.row[data-message]')
    .evaluateAll((rows) => rows.find((row) => row.getBoundingClientRect().bottom > 200)?.getAttribute('data-message'));
  await page.getByRole('link', { name: 'Models' }).click();
  await expect(thread).toHaveCount(0);
  await page.goBack();
  await expect(page.locator(`[data-message="${read}"]`)).toBeInViewport();
  await page.getByRole('button', { name: 'Jump to latest' }).click();
  await page.getByRole('link', { name: 'New chat' }).click();
  await page.getByRole('link', { name: 'A long chat' }).click();
  await expect(answers(page).last()).toBeInViewport();
});
