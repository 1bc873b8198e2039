import { backend, type Settings } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { sameSampling } from '$lib/settings/presets';
import type { ApiError } from '$lib/backend';

const SAVE_AFTER_MS = 250;

/** The settings as they are shown; every change acts at once and is written a moment later. */
class SettingsState {
  #current = $state<Settings>();
  #defaults = $state.raw<Settings>();
  saveError = $state.raw<ApiError | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #edits = 0;
  #writing: Promise<void> = Promise.resolve();

  get current(): Settings {
    if (!this.#current) throw new Error('BUG: settings are read before they are loaded');
    return this.#current;
  }

  get defaults(): Settings {
    if (!this.#defaults) throw new Error('BUG: settings are read before they are loaded');
    return this.#defaults;
  }

  async load(): Promise<void> {
    const [current, defaults] = await Promise.all([backend.loadSettings(), backend.defaultSettings()]);
    this.#current = current;
    this.#defaults = defaults;
  }

  change(edit: (settings: Settings) => void): void {
    edit(this.current);
    this.#forgetPresetThatNoLongerHolds();
    this.#edits++;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.flush(), SAVE_AFTER_MS);
  }

  /** The program itself remembers the model that was loaded; a later save must not undo that. */
  noteLastModel(id: string): void {
    this.current.lastModel = id;
  }

  /** Writes what is not written yet: an answer is made with the settings that are on the disk. */
  flush(): Promise<void> {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#writing = this.#writing.then(() => this.#write());
    }
    return this.#writing;
  }

  async #write(): Promise<void> {
    const edits = this.#edits;
    try {
      const wanted: Settings = $state.snapshot(this.current);
      const kept = await backend.saveSettings(wanted);
      if (edits === this.#edits) this.#current = kept;
      this.saveError = null;
    } catch (error) {
      this.saveError = asApiError(error);
    }
  }

  #forgetPresetThatNoLongerHolds(): void {
    const { activePreset, presets, sampling } = this.current;
    const active = presets.find((preset) => preset.name === activePreset);
    if (activePreset !== null && !(active && sameSampling(active.sampling, sampling))) this.current.activePreset = null;
  }
}

export const settings = new SettingsState();
