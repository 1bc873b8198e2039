import type { Token } from 'markdown-it';

const RIGHT_TO_LEFT =
  /^[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}\p{Script=Samaritan}\p{Script=Mandaic}\p{Script=Hanifi_Rohingya}]$/u;
const LETTER = /\p{L}/u;

/** The direction of the first letter, as `dir="auto"` finds it; undefined where there is none. */
function directionOf(text: string): 'ltr' | 'rtl' | undefined {
  const letter = LETTER.exec(text)?.[0];
  return letter === undefined ? undefined : RIGHT_TO_LEFT.test(letter) ? 'rtl' : 'ltr';
}

/** The words of a line; code and formulas have a direction of their own. */
const wordsOf = (inline: Token): string => (inline.children ?? []).map(({ type, content }) => (type === 'text' ? content : '')).join('');

function closeOf(tokens: readonly Token[], open: number): number {
  const level = tokens[open]?.level;
  return tokens.findIndex((token, index) => index > open && token.nesting < 0 && token.level === level);
}

/** The first direction among what is inside the block that opens at `open`. */
function within(tokens: readonly Token[], open: number): 'ltr' | 'rtl' | undefined {
  for (const token of tokens.slice(open + 1, closeOf(tokens, open))) {
    const direction = token.type === 'inline' ? directionOf(wordsOf(token)) : undefined;
    if (direction) return direction;
  }
  return undefined;
}

/** Blocks of text, whose direction the page finds. */
const TEXT = ['paragraph_open', 'heading_open', 'th_open', 'td_open'];
/** Blocks of blocks: `auto` would skip those inside that have a direction of their own. */
const CONTAINERS = ['bullet_list_open', 'ordered_list_open', 'list_item_open', 'blockquote_open', 'table_open'];

/** Gives every block the direction of its text. */
export function direct(tokens: readonly Token[]): void {
  tokens.forEach((token, index) => {
    // Of a number alone, `auto` would make a text from left to right.
    if (TEXT.includes(token.type) && within(tokens, index)) token.attrSet('dir', 'auto');
    if (CONTAINERS.includes(token.type)) {
      const direction = within(tokens, index);
      if (direction) token.attrSet('dir', direction);
    }
    for (const child of token.children ?? []) if (child.type === 'code_inline') child.attrSet('dir', 'ltr');
  });
}
