import { backend, type ApiError, type OffloadSettings, type PlanView } from '$lib/backend';
import { asApiError } from '$lib/errors';

const PLAN_AFTER_MS = 150;

/** What a model would take with the settings as they are; follows them. Made while a component is set up. */
export class PlanPreview {
  plan = $state.raw<PlanView | null>(null);
  error = $state.raw<ApiError | null>(null);
  isStale = $state(false);
  #asked = 0;

  constructor(model: () => string | null, offload: () => OffloadSettings) {
    $effect(() => {
      const id = model();
      const wanted: OffloadSettings = $state.snapshot(offload());
      if (id === null) return;
      this.isStale = true;
      const timer = setTimeout(() => void this.#read(id, wanted), this.#asked === 0 ? 0 : PLAN_AFTER_MS);
      return () => clearTimeout(timer);
    });
  }

  async #read(id: string, offload: OffloadSettings): Promise<void> {
    const asked = ++this.#asked;
    try {
      const plan = await backend.planModel(id, offload);
      if (asked !== this.#asked) return;
      this.plan = plan;
      this.error = null;
    } catch (error) {
      if (asked !== this.#asked) return;
      this.plan = null;
      this.error = asApiError(error);
    }
    this.isStale = false;
  }
}
