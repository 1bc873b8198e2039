const isLost = () => document.activeElement === null || document.activeElement === document.body;

export function focusOn(element: HTMLElement): void {
  if (element.tabIndex < 0) element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

/** Takes the focus where what had it is gone; leaves it alone where a person has it elsewhere. */
export function focusIfLost(element: HTMLElement | null | undefined): void {
  if (element && isLost()) focusOn(element);
}

/** What is led to: a card, also that of an item of a list, or a heading. */
function stopAt(node: Node): HTMLElement | null {
  if (!(node instanceof HTMLElement)) return null;
  if (node.matches('article, h2')) return node;
  return node.matches('li') ? (node.querySelector('article') ?? node) : null;
}

function along(from: Node | null, next: (node: Node) => Node | null): HTMLElement | null {
  for (let node = from; node !== null; node = next(node)) {
    const stop = stopAt(node);
    if (stop) return stop;
  }
  return null;
}

const forward = (from: Node | null) => along(from, (node) => node.nextSibling);
const backward = (from: Node | null) => along(from, (node) => node.previousSibling);

/** The card that something was in; where that is gone too, the next one, or the heading above it. */
function successor({ target, nextSibling, previousSibling }: MutationRecord, page: HTMLElement): HTMLElement | null {
  if (!(target instanceof HTMLElement)) return null;
  let found = target.closest('article') ?? forward(nextSibling) ?? backward(previousSibling);
  for (let at: HTMLElement | null = target; found === null && at !== null && at !== page; at = at.parentElement) {
    found = backward(at.previousSibling) ?? forward(at.nextSibling);
  }
  return found;
}

/**
 * Keeps a place on `page` for those who do not see it: a button that goes while it has the focus, or had it before a
 * dialog asked, would leave the focus on nothing, and the next Tab at the top.
 */
export function keepPlace(page: HTMLElement): () => void {
  let last: HTMLElement | null = null;

  const isAsked = () => document.querySelector('[role=dialog], [role=alertdialog]') !== null;
  const take = ({ target }: FocusEvent) => {
    if (!(target instanceof HTMLElement)) return;
    if (page.contains(target)) last = target;
    else if (!isAsked()) last = null;
  };
  /** A press beside everything gives the focus up on purpose; a dialog that comes or goes does not. */
  const release = ({ target }: FocusEvent) => {
    if (target !== last) return;
    setTimeout(() => {
      if (target === last && last?.isConnected && isLost() && !isAsked()) last = null;
    });
  };
  const settle = (next: HTMLElement) => {
    if (isAsked()) setTimeout(() => settle(next), 50);
    else if (next.isConnected) focusIfLost(next);
  };
  const observer = new MutationObserver((records) => {
    let gone: Node | null = last;
    if (gone === null || gone.isConnected) return;
    last = null;
    let where: MutationRecord | null = null;
    for (const record of records) {
      if (![...record.removedNodes].some((node) => node.contains(gone))) continue;
      where = record;
      gone = record.target;
    }
    const next = where && successor(where, page);
    if (next) setTimeout(() => settle(next));
  });

  observer.observe(page, { childList: true, subtree: true });
  document.addEventListener('focusin', take);
  document.addEventListener('focusout', release);
  return () => {
    observer.disconnect();
    document.removeEventListener('focusin', take);
    document.removeEventListener('focusout', release);
  };
}
