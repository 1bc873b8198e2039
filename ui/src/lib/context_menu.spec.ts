import { describe, expect, it } from 'vitest';
import { entriesFor, placeOf } from './context_menu';

function entries(html: string, target: string, select?: (element: Element) => void): string[][] {
  document.body.innerHTML = html;
  const element = document.querySelector(target);
  if (!element) throw new Error(`no ${target}`);
  getSelection()?.removeAllRanges();
  select?.(element);
  return entriesFor(placeOf(element, getSelection()));
}

const selectSome = (element: Element) => (element as HTMLTextAreaElement).setSelectionRange(0, 3);
const MESSAGE = `<div data-message="m1"><article><div class="markdown"><p>See <a href="https://example.org/x">here</a></p>
  <div class="code"><div class="code-bar"><button>Copy</button></div><pre><code>let x = 1;</code></pre></div></div></article></div>`;

describe('the context menu', () => {
  it('edits text in a field, as far as it can be edited', () => {
    expect(entries('<textarea>some</textarea>', 'textarea', selectSome)).toEqual([['cut', 'copy', 'paste', 'selectAll']]);
    expect(entries('<textarea>some</textarea>', 'textarea')).toEqual([['paste', 'selectAll']]);
    expect(entries('<input type="search">', 'input')).toEqual([['paste']]);
    expect(entries('<input value="some" readonly>', 'input', selectSome)).toEqual([['copy', 'selectAll']]);
    expect(entries('<input type="number" value="12">', 'input')).toEqual([['paste', 'selectAll']]);
  });

  it('copies no password', () => {
    expect(entries('<input type="password" value="secret">', 'input', selectSome)).toEqual([['paste', 'selectAll']]);
  });

  it('opens and copies links that lead out, and no others', () => {
    expect(entries(MESSAGE, 'a')[0]).toEqual(['openLink', 'copyLink']);
    expect(entries('<a href="#/settings">Settings</a>', 'a')).toEqual([]);
    expect(entries('<a href="javascript:alert(1)">x</a>', 'a')).toEqual([]);
  });

  it('copies what is selected, the code or the message it is on', () => {
    expect(entries(MESSAGE, 'p')).toEqual([['selectAll'], ['copyMessage']]);
    expect(entries(MESSAGE, 'pre')).toEqual([['selectAll'], ['copyCode', 'copyMessage']]);
    expect(entries(MESSAGE, 'p', (element) => getSelection()?.selectAllChildren(element))).toEqual([
      ['copy', 'selectAll'],
      ['copyMessage']
    ]);
  });

  it('has nothing to offer where there is nothing', () => {
    expect(entries('<main><h1>Octet</h1></main>', 'h1')).toEqual([]);
    expect(entries('<input type="checkbox">', 'input')).toEqual([]);
  });
});
