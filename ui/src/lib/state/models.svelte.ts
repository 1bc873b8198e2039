import { backend, type ApiError, type HardwareInfo, type ModelEntry, type ModelState, type PlanView } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { tellApart } from '$lib/models/names';
import { needsReload } from '$lib/settings/presets';
import { settings } from './settings.svelte';

class Models {
  state = $state.raw<ModelState>({ type: 'none' });
  entries = $state.raw<ModelEntry[]>([]);
  hardware = $state.raw<HardwareInfo | null>(null);
  /** What went wrong when the list was read, or a model was unloaded. */
  listError = $state.raw<ApiError | null>(null);

  readonly plan: PlanView | null = $derived(this.state.type === 'ready' ? this.state.plan : null);
  /** By id, what tells a model from others of its name. */
  readonly marks: ReadonlyMap<string, string> = $derived(tellApart(this.entries));
  readonly isReloadNeeded: boolean = $derived(this.state.type === 'ready' && needsReload(this.state.offload, settings.current.offload));
  /** The model that the settings beside the chat plan for: the loaded one, else the one that would be. */
  readonly planned: ModelEntry | null = $derived.by(() => {
    if (this.state.type !== 'none') return this.state.model;
    const last = settings.current.lastModel;
    return this.entries.find((entry) => entry.id === last) ?? this.entries[0] ?? null;
  });

  async start(): Promise<void> {
    await backend.onModelState((state) => this.#take(state));
    const [state, hardware] = await Promise.all([backend.modelState(), backend.hardware()]);
    this.#take(state);
    this.hardware = hardware;
    await this.refresh();
  }

  async refresh(): Promise<void> {
    try {
      this.entries = await backend.listModels();
    } catch (error) {
      this.listError = asApiError(error);
    }
  }

  async readHardware(): Promise<void> {
    this.hardware = await backend.hardware();
  }

  /** Loads with the settings as they are; says itself what went wrong, through `state`. */
  async load(id: string, isForced = false): Promise<void> {
    await settings.flush();
    try {
      this.#take(await backend.loadModel(id, isForced));
    } catch (thrown) {
      const error = asApiError(thrown);
      const model = this.entries.find((entry) => entry.id === id);
      if (error.kind === 'cancelled' || !model) this.state = await backend.modelState();
      else this.state = { type: 'failed', model, error };
    }
  }

  #take(state: ModelState): void {
    this.state = state;
    if (state.type === 'ready') settings.noteLastModel(state.model.id);
  }

  async reload(): Promise<void> {
    if (this.planned) await this.load(this.planned.id);
  }

  cancel(): Promise<void> {
    return this.#try(() => backend.cancelLoad());
  }

  unload(): Promise<void> {
    return this.#try(() => backend.unloadModel());
  }

  async #try(call: () => Promise<void>): Promise<void> {
    try {
      await call();
    } catch (error) {
      this.listError = asApiError(error);
    }
  }
}

export const models = new Models();
