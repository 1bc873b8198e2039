import { sourceOf } from './enhance';

/**
 * Makes `root` show `html`, which has to be sanitized, and leaves what is the same as before in place: a text that
 * grows is drawn again where it grew, and what a person has selected in it stays selected.
 */
export function patch(root: Element, html: string): void {
  const template = document.createElement('template');
  template.innerHTML = html;
  patchChildren(root, template.content);
}

function patchChildren(old: Node, wanted: Node): void {
  let kept = old.firstChild;
  let next = wanted.firstChild;
  while (next) {
    // `next` leaves its place where it is put into the page.
    const following = next.nextSibling;
    if (kept === null) {
      old.appendChild(next);
    } else {
      const after = kept.nextSibling;
      patchNode(kept, next);
      kept = after;
    }
    next = following;
  }
  while (kept) {
    const after = kept.nextSibling;
    kept.parentNode?.removeChild(kept);
    kept = after;
  }
}

function patchNode(old: Node, wanted: Node): void {
  if (old instanceof Text && wanted instanceof Text) {
    if (wanted.data.startsWith(old.data)) {
      if (wanted.data.length > old.data.length) old.appendData(wanted.data.slice(old.data.length));
    } else {
      old.data = wanted.data;
    }
    return;
  }
  if (old instanceof Element && wanted instanceof Element && old.tagName === wanted.tagName) {
    const source = sourceOf(old);
    // What was drawn from a source is as good as it as long as that is the same.
    if (source !== undefined && source === wanted.textContent) return;
    if (source === undefined && haveSameAttributes(old, wanted)) {
      patchChildren(old, wanted);
      return;
    }
  }
  old.parentNode?.replaceChild(wanted, old);
}

function haveSameAttributes(a: Element, b: Element): boolean {
  return a.attributes.length === b.attributes.length && [...a.attributes].every(({ name, value }) => b.getAttribute(name) === value);
}
