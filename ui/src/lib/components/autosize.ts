import type { Action } from 'svelte/action';

/** Keeps a text field as high as its text. The parameter is the text: a change of it measures again. */
export const autosize: Action<HTMLTextAreaElement, string> = (field) => {
  const fit = () => {
    field.style.height = 'auto';
    const border = field.offsetHeight - field.clientHeight;
    field.style.height = `${field.scrollHeight + border}px`;
  };
  fit();
  return { update: fit };
};
