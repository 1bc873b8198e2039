import { describe, expect, it } from 'vitest';
import { bytes, bytesOf, number, percent, rate, seconds } from './format';

describe('figures', () => {
  it('have few digits and the unit that fits', () => {
    expect(bytes(0, 'en')).toBe('0 B');
    expect(bytes(999, 'en')).toBe('999 B');
    expect(bytes(999_999, 'en')).toBe('1 MB');
    expect(bytes(66.4e6, 'en')).toBe('66 MB');
    expect(bytes(6.83e9, 'en')).toBe('6.8 GB');
    expect(bytes(17e9, 'en')).toBe('17 GB');
    expect(bytes(143e9, 'en')).toBe('143 GB');
    expect(bytesOf(0.2e9, 11.4e9, 'en')).toBe('0.2 / 11.4 GB');
  });

  it('are written as the language writes them', () => {
    expect(bytes(6.83e9, 'de')).toBe('6,8 GB');
    expect(number(8192, 'de')).toBe('8.192');
    expect(percent(0.81, 'de')).toBe('81\u00a0%');
  });

  it('are precise where that means something', () => {
    expect(rate(14.23, 'en')).toBe('14.2');
    expect(rate(230.4, 'en')).toBe('230');
    expect(seconds(812, 'en')).toBe('0.8 s');
    expect(seconds(12_400, 'en')).toBe('12 s');
  });
});
