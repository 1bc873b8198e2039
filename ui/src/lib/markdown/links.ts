import type { Token } from 'markdown-it';

/** Where a link leads, as far as a person has to know it: the host, or the address of a mail. */
export function hostOf(url: string): string {
  try {
    const { protocol, host, pathname } = new URL(url);
    return protocol === 'mailto:' ? decodeURIComponent(pathname) : host;
  } catch {
    return '';
  }
}

/** An address in three parts: what is before the host, the host, what is behind it. */
export function parts(url: string): [before: string, host: string, after: string] {
  const host = hostOf(url);
  // Behind a name before the host; a host in letters of its own is shown as it is asked for.
  const at = url.toLowerCase().indexOf(host, /^https?:\/\/[^/?#]*@/i.exec(url)?.[0].length ?? 0);
  if (host === '' || at < 0) return [url, host === '' ? '' : ` (${host})`, ''];
  return [url.slice(0, at), url.slice(at, at + host.length), url.slice(at + host.length)];
}

const bare = (host: string): string =>
  host
    .toLowerCase()
    .replace(/^www\./, '')
    .replace(/\.$/, '');

/** Something in a text that people take for an address: a scheme, a name with a known shape, a user before a host. */
const ADDRESS =
  /(?:https?:\/\/|www\.)[^\s<>"')\]]+|(?<![\w@.-])(?:[\p{L}\d](?:[\p{L}\d-]*[\p{L}\d])?\.)+\p{L}{2,}(?![\w.-]*\()(?:[/:?#][^\s<>"')\]]*)?|[\w.+-]+@[\w.-]+\.\p{L}{2,}/giu;

function hostIn(address: string): string {
  if (/^[\w.+-]+@[^/]+$/.test(address)) return address.toLowerCase();
  const url = /^https?:/i.test(address) ? address : `https://${address}`;
  return bare(hostOf(url.replace(/[.,;:!?]+$/, '')));
}

/** A link's text names another place than the one it leads to, or hides it by other means. */
export function isMisleading(text: string, url: string): boolean {
  const target = hostOf(url);
  const shown = text.replace(/[\u200b-\u200d\u2060\ufeff]/g, '');
  if (/^https?:\/\/[^/?#]*@/i.test(url) || /[\u202a-\u202e\u2066-\u2069]/.test(text)) return true;
  // Letters of another script may look like those of a known name.
  if (/(?:^|\.)xn--/.test(target) && !text.includes(target)) return true;
  for (const [address] of shown.matchAll(ADDRESS)) {
    const named = hostIn(address);
    const goes = target.includes('@') ? target.toLowerCase() : bare(target);
    if (named !== '' && named !== goes && named !== bare(goes.replace(/:\d+$/, ''))) return true;
  }
  return false;
}

/** The words between the tokens of a link that opens at `open`. */
export function linkText(tokens: readonly Token[], open: number): string {
  let text = '';
  for (const token of tokens.slice(open + 1)) {
    if (token.type === 'link_close') break;
    text += token.type === 'softbreak' || token.type === 'hardbreak' ? ' ' : token.content;
  }
  return text;
}
