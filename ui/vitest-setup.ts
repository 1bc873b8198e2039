import '@testing-library/jest-dom/vitest';
import { cleanup } from '@testing-library/svelte';
import { afterEach } from 'vitest';
import { guardInputMethods } from '$lib/keys';

// As `main.ts` does before anything is drawn.
guardInputMethods(window);

afterEach(() => cleanup());

// What jsdom lacks and the components ask for.
class NoObserver {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
}
globalThis.ResizeObserver ??= NoObserver as unknown as typeof ResizeObserver;
globalThis.matchMedia ??= ((query: string) => ({
  matches: false,
  media: query,
  addEventListener: () => {},
  removeEventListener: () => {}
})) as unknown as typeof matchMedia;
const lacking: Record<string, () => unknown> = { scrollIntoView: () => {}, hasPointerCapture: () => false };
for (const [name, method] of Object.entries(lacking)) {
  if (!(name in Element.prototype)) Object.assign(Element.prototype, { [name]: method });
}
