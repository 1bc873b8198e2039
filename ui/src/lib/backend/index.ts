import type { Backend } from './backend';

export type { Backend, OnGeneration, Unlisten } from './backend';
export type * from './bindings';

/** The connection that the whole window uses; set once, before anything is drawn. */
export let backend: Backend;

export function useBackend(connection: Backend): void {
  backend = connection;
}

/** Connects to the program, or in the `e2e` mode, which runs in a plain browser, to its fake twin. */
export async function connect(): Promise<void> {
  if (import.meta.env.MODE === 'e2e') {
    const { createFake } = await import('./fake');
    useBackend(createFake(new URLSearchParams(location.search)));
  } else {
    const { tauriBackend } = await import('./tauri');
    useBackend(tauriBackend);
  }
}
