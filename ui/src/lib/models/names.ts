import type { ModelEntry } from '$lib/backend';
import { quantizationText } from './words';

/** "mixtral" of "/home/ada/models/mixtral", "mixtral/v2" with two parts. */
const endOf = (path: string, parts: number): string =>
  path
    .split(/[\\/]+/)
    .filter(Boolean)
    .slice(-parts)
    .join('/');

/** The owner, of a model of the hub. */
const ownerOf = ({ id, kind }: ModelEntry): string => (kind === 'hub' ? (id.split('/')[0] ?? '') : '');

/** What may tell models of one name apart, the shortest first. */
const MARKS: readonly ((entry: ModelEntry) => string)[] = [
  ({ quantization }) => (quantization ? quantizationText(quantization) : ''),
  ownerOf,
  ({ path }) => endOf(path, 1),
  ({ path }) => endOf(path, 2),
  ({ path }) => path
];

/** By id, what tells a model from others of its name. Names that are there once need nothing. */
export function tellApart(entries: readonly ModelEntry[]): Map<string, string> {
  const marks = new Map<string, string>();
  const named = new Map<string, ModelEntry[]>();
  for (const entry of entries) {
    const name = entry.name.trim().toLowerCase();
    named.set(name, [...(named.get(name) ?? []), entry]);
  }
  for (const same of named.values()) {
    if (same.length < 2) continue;
    const tellsAll = (mark: (entry: ModelEntry) => string) =>
      new Set(same.map(mark)).size === same.length && same.every((entry) => mark(entry) !== '');
    const mark = MARKS.find(tellsAll) ?? (({ path, id }: ModelEntry) => path || id);
    for (const entry of same) marks.set(entry.id, mark(entry));
  }
  return marks;
}
