import type { Action } from 'svelte/action';

/** Keeps a text field as high as its text. The parameter is the text: a change of it measures again. */
export const autosize: Action<HTMLTextAreaElement, string> = (field) => {
  const fit = () => {
    field.style.height = 'auto';
    const border = field.offsetHeight - field.clientHeight;
    field.style.height = `${field.scrollHeight + border}px`;
    // A bar only where the field may not grow any more, and not for a fraction of a pixel.
    field.style.overflowY = field.scrollHeight - field.clientHeight > 2 ? 'auto' : 'hidden';
  };
  fit();
  // The text is of another height in the font that comes.
  void document.fonts?.ready.then(fit);
  return { update: fit };
};
