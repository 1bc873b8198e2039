/**
 * Numbers as a person reads them. `locale` is a BCP 47 tag; bytes are decimal, as disks and the engine count. A number
 * and its unit stay on one line.
 */

const NBSP = '\u00a0';

const cache = new Map<string, Intl.NumberFormat>();

/** To make one takes longer than to use it a hundred times. */
function formatOf(key: string, locale: string, options: Intl.NumberFormatOptions): Intl.NumberFormat {
  let format = cache.get(key);
  if (!format) {
    format = new Intl.NumberFormat(locale, options);
    cache.set(key, format);
  }
  return format;
}

export function number(value: number, locale: string, digits = 0, minDigits = digits): string {
  const options = { maximumFractionDigits: digits, minimumFractionDigits: minDigits };
  return formatOf(`${locale} ${digits} ${minDigits}`, locale, options).format(value);
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

function unitOf(bytes: number): number {
  let unit = 0;
  for (let rest = Math.abs(bytes); rest >= 999.5 && unit < UNITS.length - 1; rest /= 1000) unit++;
  return unit;
}

/** Three significant digits at most: 17 GB, 6.8 GB, 512 MB. */
export function bytes(value: number, locale: string): string {
  const unit = unitOf(value);
  const scaled = value / 1000 ** unit;
  return `${number(scaled, locale, unit >= 3 && scaled < 99.95 ? 1 : 0, 0)}${NBSP}${UNITS[unit]}`;
}

/** Both in the unit of the second, which is said once: "11.2 / 11.4 GB". */
export function bytesOf(value: number, of: number, locale: string): string {
  const unit = unitOf(of);
  const scale = (n: number) => number(n / 1000 ** unit, locale, unit >= 3 ? 1 : 0, 0);
  return `${scale(value)} / ${scale(of)}${NBSP}${UNITS[unit]}`;
}

/** 100% is said of all only: what is a little less has a decimal, and ends at 99.9%. */
export function percent(share: number, locale: string): string {
  const isNearlyAll = share >= 0.995 && share < 1;
  const digits = isNearlyAll ? 1 : 0;
  const shown = isNearlyAll ? Math.floor(share * 1000) / 1000 : share;
  return formatOf(`${locale} % ${digits}`, locale, { style: 'percent', maximumFractionDigits: digits }).format(shown);
}

/** One digit below 100: 14.2, 0.8, 230. */
export function rate(value: number, locale: string): string {
  return number(value, locale, value < 99.95 ? 1 : 0);
}

export function seconds(ms: number, locale: string): string {
  return `${number(ms / 1000, locale, ms < 9_950 ? 1 : 0)}${NBSP}s`;
}

/** How long it will take, as exact as it can be meant: "40 s", "4 min 45 s", "1 h 10 min". */
export function duration(seconds: number, locale: string): string {
  const parts = (first: number, firstUnit: string, second: number, secondUnit: string) =>
    second === 0
      ? `${number(first, locale)}${NBSP}${firstUnit}`
      : `${number(first, locale)}${NBSP}${firstUnit} ${second}${NBSP}${secondUnit}`;
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole}${NBSP}s`;
  if (whole < 600) return parts(Math.floor(whole / 60), 'min', Math.floor((whole % 60) / 5) * 5, 's');
  const minutes = Math.ceil(whole / 60);
  if (minutes < 60) return `${minutes}${NBSP}min`;
  return parts(Math.floor(minutes / 60), 'h', Math.floor((minutes % 60) / 5) * 5, 'min');
}

export function date(ms: number, locale: string): string {
  return new Intl.DateTimeFormat(locale, { dateStyle: 'medium' }).format(ms);
}

/** "3 days ago", by the calendar. */
export function daysAgo(ms: number, now: number, locale: string): string {
  const day = (at: number) => new Date(at).setHours(12, 0, 0, 0);
  const days = Math.round((day(ms) - day(now)) / 86_400_000);
  return days < -30 ? date(ms, locale) : new Intl.RelativeTimeFormat(locale, { numeric: 'auto' }).format(days, 'day');
}

export function dateTime(ms: number, locale: string): string {
  return new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short' }).format(ms);
}

export function monthYear(year: number, month: number, locale: string): string {
  return new Intl.DateTimeFormat(locale, { month: 'long', year: 'numeric' }).format(new Date(year, month, 1));
}
