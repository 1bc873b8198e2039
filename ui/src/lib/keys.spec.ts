import { readFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { commandKey, fieldOf, guardInputMethods, shortcutKey } from './keys';

const press = (init: KeyboardEventInit) => new KeyboardEvent('keydown', { bubbles: true, ...init });

describe('the key of a shortcut', () => {
  it.each([
    ['k', 'KeyK', 'k', 'US'],
    ['K', 'KeyK', 'k', 'caps lock'],
    ['л', 'KeyK', 'k', 'Russian'],
    ['Л', 'KeyK', 'k', 'Russian, shifted'],
    ['κ', 'KeyK', 'k', 'Greek'],
    ['ن', 'KeyK', 'k', 'Arabic'],
    ['ל', 'KeyK', 'k', 'Hebrew'],
    ['ㅏ', 'KeyK', 'k', 'Korean'],
    ['ק', 'KeyE', 'e', 'Hebrew, e'],
    ['б', 'Comma', ',', 'Russian'],
    ['ю', 'Period', '.', 'Russian'],
    ['ת', 'Comma', ',', 'Hebrew'],
    ['.', 'Slash', '.', 'Russian, where the dot is'],
    ['t', 'KeyK', 't', 'Dvorak: what is printed counts'],
    ['k', 'KeyV', 'k', 'Dvorak'],
    [',', 'KeyW', ',', 'Dvorak'],
    ['z', 'KeyW', 'z', 'AZERTY'],
    ['w', 'KeyZ', 'w', 'AZERTY'],
    ['z', 'KeyY', 'z', 'QWERTZ'],
    ['ö', 'Semicolon', 'ö', 'German: a Latin letter is itself'],
    ['ç', 'Period', 'ç', 'Turkish: no dot'],
    ['à', 'Digit0', '0', 'AZERTY, digits'],
    ['é', 'Digit0', '0', 'Czech, digits'],
    ['-', 'Digit6', '-', 'AZERTY, minus'],
    ['+', 'BracketRight', '+', 'German, plus'],
    ['0', 'Numpad0', '0', 'the number block'],
    ['Dead', 'KeyK', 'k', 'a dead key'],
    ['Escape', 'Escape', 'Escape', 'a named key'],
    ['Enter', 'NumpadEnter', 'Enter', 'a named key']
  ])('%s at %s is %s (%s)', (key, code, expected) => expect(shortcutKey({ key, code })).toBe(expected));

  it('needs Ctrl or Cmd, and is not what AltGr types', () => {
    expect(commandKey(press({ key: 'k', code: 'KeyK' }))).toBeNull();
    expect(commandKey(press({ key: 'k', code: 'KeyK', ctrlKey: true }))).toBe('k');
    expect(commandKey(press({ key: 'k', code: 'KeyK', metaKey: true }))).toBe('k');
    expect(commandKey(press({ key: 'ż', code: 'KeyZ', ctrlKey: true, altKey: true }))).toBeNull();
    expect(commandKey(press({ key: '0', code: 'Digit0', ctrlKey: true, modifierAltGraph: true }))).toBeNull();
  });
});

describe('keys of an input method', () => {
  it.each([
    ['composing', { isComposing: true }],
    // WebKit ends the composition first, and sends the key that ended it with this code alone.
    ['ending the composition', { keyCode: 229 }]
  ])('reach no handler while %s, wherever it listens', (_name, init) => {
    const field = document.createElement('textarea');
    document.body.append(field);
    const heard = vi.fn();
    field.addEventListener('keydown', heard);
    document.addEventListener('keydown', heard, { capture: true });
    window.addEventListener('keydown', heard, { capture: true });
    window.addEventListener('keydown', heard);
    for (const key of ['Enter', 'Escape', 'Tab', 'ArrowUp', 'k']) {
      const event = press({ key, cancelable: true, ...init });
      field.dispatchEvent(event);
      expect(event.defaultPrevented, 'the input method has to get it').toBe(false);
    }
    expect(heard).not.toHaveBeenCalled();
    field.dispatchEvent(press({ key: 'Enter' }));
    expect(heard).toHaveBeenCalledTimes(4);
    document.removeEventListener('keydown', heard, { capture: true });
    window.removeEventListener('keydown', heard, { capture: true });
    window.removeEventListener('keydown', heard);
  });

  it('are kept back only while the guard stands', () => {
    const place = new EventTarget();
    const heard = vi.fn();
    const leave = guardInputMethods(place);
    place.addEventListener('keydown', heard);
    place.dispatchEvent(press({ key: 'Enter', keyCode: 229 }));
    expect(heard).not.toHaveBeenCalled();
    leave();
    place.dispatchEvent(press({ key: 'Enter', keyCode: 229 }));
    expect(heard).toHaveBeenCalledOnce();
  });

  // Who listens to the window before the guard does would get them.
  it('are kept back before anything else of the page begins', () => {
    const main = readFileSync('src/main.ts', 'utf8');
    expect(main.indexOf('guardInputMethods(window)')).toBeGreaterThan(0);
    expect(main.indexOf('guardInputMethods(window)')).toBeLessThan(main.indexOf('await connect()'));
    expect(main.indexOf('guardInputMethods(window)')).toBeLessThan(main.indexOf('mount('));
  });
});

describe('a field', () => {
  it('is what one types in', () => {
    const input = (type: string) => Object.assign(document.createElement('input'), { type });
    expect(fieldOf(document.createElement('textarea'))).not.toBeNull();
    for (const type of ['text', 'search', 'number', 'password']) expect(fieldOf(input(type))).not.toBeNull();
    for (const type of ['checkbox', 'range', 'button']) expect(fieldOf(input(type))).toBeNull();
    expect(fieldOf(document.body)).toBeNull();
    expect(fieldOf(null)).toBeNull();
  });
});
