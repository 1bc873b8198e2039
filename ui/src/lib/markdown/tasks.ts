import type { Token } from 'markdown-it';

const TASK = /^\[([ xX])\]\s+(?=\S)/;

/** Makes check boxes of `[x]` and `[ ]` at the beginning of items. */
export function markTasks(tokens: readonly Token[], TokenType: typeof Token): void {
  tokens.forEach((item, index) => {
    const inline = tokens[index + 2];
    const first = inline?.children?.[0];
    if (item.type !== 'list_item_open' || inline?.type !== 'inline' || first?.type !== 'text') return;
    const [mark, state] = TASK.exec(inline.content) ?? [];
    if (mark === undefined || state === undefined || !first.content.startsWith(mark.trimEnd())) return;
    first.content = first.content.slice(mark.trimEnd().length).trimStart();
    const box = new TokenType('task', '', 0);
    box.content = state.toLowerCase();
    inline.children?.unshift(box);
    item.attrJoin('class', 'task-item');
  });
}
