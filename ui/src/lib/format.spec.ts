import { describe, expect, it } from 'vitest';
import { bytes, bytesOf, daysAgo, duration, number, percent, rate, seconds } from './format';

describe('figures', () => {
  it('have few digits and the unit that fits', () => {
    expect(bytes(0, 'en')).toBe('0\u00a0B');
    expect(bytes(999, 'en')).toBe('999\u00a0B');
    expect(bytes(999_999, 'en')).toBe('1\u00a0MB');
    expect(bytes(66.4e6, 'en')).toBe('66\u00a0MB');
    expect(bytes(6.83e9, 'en')).toBe('6.8\u00a0GB');
    expect(bytes(17e9, 'en')).toBe('17\u00a0GB');
    expect(bytes(143e9, 'en')).toBe('143\u00a0GB');
    expect(bytesOf(0.2e9, 11.4e9, 'en')).toBe('0.2 / 11.4\u00a0GB');
  });

  it('are written as the language writes them', () => {
    expect(bytes(6.83e9, 'de')).toBe('6,8\u00a0GB');
    expect(number(8192, 'de')).toBe('8.192');
    expect(percent(0.81, 'de')).toBe('81\u00a0%');
  });

  it('say all of all only', () => {
    expect([0, 0.004, 0.994, 0.995, 0.9999, 1].map((share) => percent(share, 'en'))).toEqual(['0%', '0%', '99%', '99.5%', '99.9%', '100%']);
  });

  it('are precise where that means something', () => {
    expect(rate(14.23, 'en')).toBe('14.2');
    expect(rate(230.4, 'en')).toBe('230');
    expect(seconds(812, 'en')).toBe('0.8\u00a0s');
    expect(seconds(12_400, 'en')).toBe('12\u00a0s');
  });

  it('tell a time to come as exactly as it can be meant', () => {
    expect([0.4, 40, 59.2, 285, 284, 601, 3599, 4200, 90_000].map((value) => duration(value, 'en'))).toEqual([
      '1\u00a0s',
      '40\u00a0s',
      '1\u00a0min',
      '4\u00a0min 45\u00a0s',
      '4\u00a0min 40\u00a0s',
      '11\u00a0min',
      '1\u00a0h',
      '1\u00a0h 10\u00a0min',
      '25\u00a0h'
    ]);
  });

  it('tell days by the calendar', () => {
    const now = new Date(2026, 10, 24, 0, 30).getTime();
    expect(daysAgo(new Date(2026, 10, 23, 23, 50).getTime(), now, 'en')).toBe('yesterday');
    expect(daysAgo(now, now, 'de')).toBe('heute');
    expect(daysAgo(new Date(2026, 10, 21).getTime(), now, 'en')).toBe('3 days ago');
    expect(daysAgo(new Date(2026, 7, 1).getTime(), now, 'en')).toBe('Aug 1, 2026');
  });
});
