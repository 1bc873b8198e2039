import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { ChatSummary } from '$lib/backend';
import { i18n } from '$lib/i18n/index.svelte';
import { groupOf, listRows } from './groups';
import { withFirstPage, withNextPage } from './pages';
import { pieces } from './snippet';
import { suggestionsFor } from './suggestions';

const now = new Date(2026, 10, 23, 15, 0);
const DAY = 86_400_000;
const chat = (id: string, updatedAt: number, pinned = false): ChatSummary => ({
  id,
  title: id,
  pinned,
  createdAt: updatedAt,
  updatedAt,
  messageCount: 2,
  preview: ''
});

describe('groups of chats', () => {
  it('go by the days of the calendar, not by hours', () => {
    const at = (day: number, hour: number) => ({ pinned: false, updatedAt: new Date(2026, 10, day, hour).getTime() });
    expect(groupOf(at(23, 0), now)).toBe('today');
    expect(groupOf(at(22, 23), now)).toBe('yesterday');
    expect(groupOf(at(16, 0), now)).toBe('week');
    expect(groupOf(at(15, 23), now)).toBe('month');
    expect(groupOf({ pinned: false, updatedAt: now.getTime() - 40 * DAY }, now)).toEqual({ year: 2026, month: 9 });
    expect(groupOf({ pinned: true, updatedAt: 0 }, now)).toBe('pinned');
  });

  it('have a heading each, and every row a key of its own', () => {
    const rows = listRows([chat('p', 1, true), chat('a', now.getTime()), chat('b', now.getTime() - DAY)], now);
    expect(rows.map((row) => row.type)).toEqual(['heading', 'chat', 'heading', 'chat', 'heading', 'chat']);
    expect(new Set(rows.map((row) => row.key)).size).toBe(6);
  });
});

describe('pages of chats', () => {
  const listed = [chat('a', 9), chat('b', 8), chat('c', 7), chat('d', 6)];

  it('puts what changed on top and forgets what is gone from the first page', () => {
    const page = { chats: [chat('c', 10), chat('a', 9)], next: 'more' };
    expect(withFirstPage(listed, page).map((one) => one.id)).toEqual(['c', 'a', 'b', 'd']);
    const withoutB = { chats: [chat('a', 9), chat('c', 7)], next: 'more' };
    expect(withFirstPage(listed, withoutB).map((one) => one.id)).toEqual(['a', 'c', 'd']);
  });

  it('takes the first page for everything where it is the only one', () => {
    expect(withFirstPage(listed, { chats: [chat('a', 9)], next: null }).map((one) => one.id)).toEqual(['a']);
  });

  it('never lists a chat twice', () => {
    const next = withNextPage(listed, { chats: [chat('d', 6), chat('e', 5)], next: null });
    expect(next.map((one) => one.id)).toEqual(['a', 'b', 'c', 'd', 'e']);
  });
});

describe('a snippet', () => {
  it('is cut at what matched', () => {
    expect(pieces('the sky at night', [[4, 7]])).toEqual([
      { text: 'the ', isMatch: false },
      { text: 'sky', isMatch: true },
      { text: ' at night', isMatch: false }
    ]);
  });

  it('bears ranges that overlap, are out of order or reach beyond the text', () => {
    const cut = pieces('abcdef', [
      [3, 99],
      [0, 2],
      [1, 4]
    ]);
    expect(cut.map((piece) => piece.text).join('')).toBe('abcdef');
    expect(cut.every((piece) => piece.isMatch)).toBe(true);
  });

  it('counts in UTF-16 units', () => {
    expect(pieces('😀 sky', [[3, 6]])[1]).toEqual({ text: 'sky', isMatch: true });
  });
});

describe('the questions to begin with', () => {
  it('are those that the demo was taught, in its language, for the demo alone', () => {
    for (const language of ['en', 'de']) {
      i18n.use(language);
      const demo = suggestionsFor({ kind: 'demo' });
      expect(demo.questions).toContain('What is Octet?');
      expect(demo.language).toBe('en');
      const { questions, language: other } = suggestionsFor({ kind: 'hub' });
      expect(other).toBeUndefined();
      expect(new Set(questions).size).toBe(4);
      expect(questions.join(' ')).not.toMatch(/Octet|expert|Mixtral/i);
      expect(/\b(Schreib|Plane)\b/.test(questions.join(' '))).toBe(language === 'de');
    }
    i18n.use('en');
  });

  // The demo answers what it was not taught with "English is all I understand", or with something else.
  it('are in what the demo was taught from', () => {
    const corpus = ['about', 'usage'].map((name) => readFileSync(`../src-tauri/crates/demo/corpus/${name}.txt`, 'utf8')).join('\n');
    for (const question of suggestionsFor({ kind: 'demo' }).questions) expect(corpus).toContain(`? ${question}\n`);
  });
});
