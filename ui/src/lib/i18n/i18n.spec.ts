import { readdirSync, readFileSync } from 'node:fs';
import { IntlMessageFormat } from 'intl-messageformat';
import { parse } from 'svelte/compiler';
import { describe, expect, it } from 'vitest';
import { de } from './de';
import { en, type Key } from './en';
import { pickLanguage } from './index.svelte';

const keys = Object.keys(en) as Key[];

/** Words that are the same in both languages. */
const SAME = new Set<string>([
  'common.autoValue',
  'offload.cpu',
  'offload.threads',
  'memory.ram',
  'item.cuda',
  'plan.vram',
  'sampling.topP',
  'sampling.minP',
  'sampling.topK',
  'appearance.system',
  'appearance.zoom',
  'appearance.zoomed',
  'sampling.title',
  'preset.name',
  'token.placeholder',
  'about.chats',
  'welcome.gpu',
  'experts.none',
  'place.vram',
  'place.ram',
  'downloads.title',
  'offers.tokenizer',
  'errorText.samplingRange',
  'errorText.triedTokenizer'
]);

const argumentsOf = (pattern: string): string[] => {
  const found = new Set<string>();
  const walk = (elements: ReturnType<IntlMessageFormat['getAst']>): void => {
    for (const element of elements) {
      const type: number = element.type;
      if (type !== 0 && type !== 7 && 'value' in element) found.add(String(element.value));
      if ('options' in element) for (const option of Object.values(element.options)) walk(option.value);
    }
  };
  walk(new IntlMessageFormat(pattern, 'en', undefined, { ignoreTag: true }).getAst());
  return [...found].toSorted();
};

describe('the languages', () => {
  it('have the same keys', () => {
    expect(Object.keys(de).toSorted()).toEqual(keys.toSorted());
  });

  it.each(keys)('%s takes the same values in both', (key) => {
    expect(argumentsOf(de[key])).toEqual(argumentsOf(en[key]));
  });

  it('leave nothing in English', () => {
    const same = keys.filter((key) => en[key] === de[key] && !SAME.has(key));
    expect(same).toEqual([]);
    const english = keys.filter((key) => /\b(the|and|with|your|please|is not|of the)\b/i.test(de[key]));
    expect(english).toEqual([]);
  });

  it('are chosen by what a person prefers', () => {
    expect(pickLanguage(null, ['fr-FR', 'de-AT', 'en'])).toBe('de');
    expect(pickLanguage(null, ['fr'])).toBe('en');
    expect(pickLanguage('de', ['en'])).toBe('de');
    expect(pickLanguage('xx', ['de'])).toBe('en');
  });
});

describe('the sources', () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' });
  const components = files.filter((file) => file.endsWith('.svelte')).map((file) => `src/${file}`);

  /** Names and signs that are not words. */
  const NOT_WORDS = /^(Octet|Ctrl K|GB|px)$/;

  it.each(components)('%s has no words of its own', (file) => {
    const found: string[] = [];
    const visit = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return;
      if (Array.isArray(node)) return node.forEach(visit);
      const { type, data, name, value } = node as { type?: string; data?: string; name?: string; value?: unknown };
      if (type === 'Text' && data && /\p{L}{2,}/u.test(data) && !NOT_WORDS.test(data.trim())) found.push(data.trim());
      if (type === 'Attribute') {
        if (name && /^(aria-label|title|placeholder|label|alt)$/.test(name)) visit(value);
        return;
      }
      if (type === 'StyleSheet') return;
      Object.values(node).forEach(visit);
    };
    visit(parse(readFileSync(file, 'utf8'), { modern: true }).fragment);
    expect(found).toEqual([]);
  });

  it('use every message', () => {
    const text = files
      .filter((file) => /\.(svelte|ts)$/.test(file) && !file.includes('i18n'))
      .map((file) => readFileSync(`src/${file}`, 'utf8'))
      .join('\n');
    const computed =
      /^(error|errorNext|errorText|imported|foreign|tried|file|input|tokenNote|keyring|group|model\.state|nav|notice|preset|sampling|stage|item|models\.from)\.|^folder\.(chosen|hubCache|own)|^endpoint\.(chosen|default|environment)|^token\.(environment|keyring|session|hubFile)|^import\.(link|copy)|^downloads\.(preparing|failed)/;
    expect(keys.filter((key) => !computed.test(key) && !text.includes(`'${key}'`) && !text.includes(`key="${key}"`))).toEqual([]);
  });

  it('import Tauri in one folder only', () => {
    const importing = files.filter(
      (file) => /\.(svelte|ts)$/.test(file) && readFileSync(`src/${file}`, 'utf8').includes('@tauri-apps/') && !file.includes('i18n.spec')
    );
    expect(importing.filter((file) => !file.replaceAll('\\', '/').startsWith('lib/backend/'))).toEqual([]);
  });
});
