import { conversation } from './conversation.svelte';
import { models } from './models.svelte';

/** Loading and unloading as a person asks for it: where that would end an answer, they are asked first. */
class ModelChange {
  /** What is done once they agree. */
  pending = $state.raw<{ kind: 'load' | 'unload'; run: () => Promise<void> } | null>(null);

  load(id: string, isForced = false): void {
    this.#ask('load', () => models.load(id, isForced));
  }

  reload(): void {
    this.#ask('load', () => models.reload());
  }

  unload(): void {
    this.#ask('unload', () => models.unload());
  }

  confirm(): void {
    const { pending } = this;
    this.pending = null;
    void pending?.run();
  }

  #ask(kind: 'load' | 'unload', run: () => Promise<void>): void {
    // What waits is answered by the next model.
    const isAnswering = [...conversation.generations.values()].some(({ phase }) => phase !== 'queued');
    if (isAnswering) this.pending = { kind, run };
    else void run();
  }
}

export const modelChange = new ModelChange();
