export interface Piece {
  text: string;
  isMatch: boolean;
}

/** Cuts `text` at the ranges that matched, given as [start, end) in UTF-16 units. */
export function pieces(text: string, matches: readonly (readonly [number, number])[]): Piece[] {
  const cut: Piece[] = [];
  let at = 0;
  for (const [start, end] of matches.toSorted((a, b) => a[0] - b[0])) {
    const from = Math.max(start, at);
    const to = Math.min(end, text.length);
    if (to <= from) continue;
    if (from > at) cut.push({ text: text.slice(at, from), isMatch: false });
    cut.push({ text: text.slice(from, to), isMatch: true });
    at = to;
  }
  if (at < text.length) cut.push({ text: text.slice(at), isMatch: false });
  return cut;
}
