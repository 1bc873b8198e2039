import { IntlMessageFormat } from 'intl-messageformat';
import { de } from './de';
import { en, type Key } from './en';

export type Values = Record<string, string | number>;
export type Language = 'en' | 'de';

export const LANGUAGES: readonly { tag: Language; name: string }[] = [
  { tag: 'en', name: 'English' },
  { tag: 'de', name: 'Deutsch' }
];

const MESSAGES: Record<Language, Record<Key, string>> = { en, de };

/** The first language a person prefers that there is, else English. */
export function pickLanguage(chosen: string | null, preferred: readonly string[]): Language {
  const wanted = chosen === null ? preferred : [chosen];
  for (const tag of wanted) {
    const found = LANGUAGES.find((language) => tag.toLowerCase().split('-')[0] === language.tag);
    if (found) return found.tag;
  }
  return 'en';
}

class I18n {
  language = $state<Language>('en');
  /** The tag to format numbers and dates by: the person's own region where it is of the same language. */
  locale = $state('en');
  #formats = new Map<string, IntlMessageFormat>();

  use(chosen: string | null): void {
    this.language = pickLanguage(chosen, navigator.languages);
    this.locale = navigator.languages.find((tag) => tag.split('-')[0] === this.language) ?? this.language;
    document.documentElement.lang = this.language;
  }

  text(key: Key, values?: Values): string {
    const pattern = MESSAGES[this.language][key];
    if (!pattern.includes('{')) return pattern;
    const id = `${this.locale} ${key}`;
    let format = this.#formats.get(id);
    if (!format) {
      format = new IntlMessageFormat(pattern, this.locale, undefined, { ignoreTag: true });
      this.#formats.set(id, format);
    }
    return String(format.format(values));
  }
}

export const i18n = new I18n();

/** The words for `key` in the language of the window. Read in a template, it follows the language. */
export const t = (key: Key, values?: Values): string => i18n.text(key, values);

/** What is printed on the keys, where it differs: `Ctrl K` is `Strg K` on a German keyboard. */
const KEYS: Record<Language, Record<string, string>> = { en: {}, de: { Ctrl: 'Strg', Shift: 'Umschalt', Del: 'Entf' } };

/** The keys of a shortcut, as their names in the language of the window. */
export const keys = (shortcut: string): string =>
  shortcut
    .split(' ')
    .map((key) => KEYS[i18n.language][key] ?? key)
    .join(' ');

export type { Key } from './en';
