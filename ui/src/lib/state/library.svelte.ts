import { SvelteMap, SvelteSet } from 'svelte/reactivity';
import {
  backend,
  type ApiError,
  type ImportHow,
  type ModelEntry,
  type ModelsState,
  type Offer,
  type Task,
  type VerifyReport
} from '$lib/backend';
import { asApiError } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { modelChange } from './model_change.svelte';
import { models } from './models.svelte';
import { router } from './route.svelte';
import { toasts } from './toasts.svelte';

/** Where a failure is shown: beside what was tried. */
export type Place =
  'import' | 'move' | 'offers' | 'lookUp' | 'endpoint' | 'token' | `offer ${string}` | `download ${string}` | `model ${string}`;

/** Models that can be had, that are on their way, and where they go. What is here is in `models.entries`. */
class Library {
  state = $state.raw<ModelsState | null>(null);
  offers = $state.raw<Offer[]>([]);
  /** Looked up by name. */
  found = $state.raw<Offer | null>(null);
  /** Asked for just now: its card shows itself once it is there. */
  begun: string | null = null;
  readonly problems = new SvelteMap<Place, ApiError>();
  readonly reports = new SvelteMap<string, VerifyReport>();
  /** Repositories under way, joined: the same text as long as the same ones are, so that lists stay as they are. */
  readonly #underWay: string = $derived((this.state?.downloads ?? []).map((download) => download.repo).join('\n'));
  readonly underWay: ReadonlySet<string> = $derived(new Set(this.#underWay.split('\n')));
  /** The one that suits this machine best. */
  readonly recommended: Offer | null = $derived(this.offers.find((offer) => offer.isRecommended) ?? this.offers[0] ?? null);
  /** What is neither here nor on its way, the best first. */
  readonly available: Offer[] = $derived(
    this.offers
      .filter(({ repo }) => !this.underWay.has(repo) && !models.entries.some((entry) => entry.id === repo))
      .sort((a, b) => Number(b.isRecommended) - Number(a.isRecommended))
  );
  /** Of all that arrives, 0 to 1; null when nothing does. */
  readonly share: number | null = $derived.by(() => {
    const moving = (this.state?.downloads ?? []).filter(({ state }) => state.kind !== 'paused' && state.kind !== 'failed');
    const total = moving.reduce((sum, download) => sum + download.totalBytes, 0);
    if (moving.length === 0) return null;
    return total === 0 ? 0 : moving.reduce((sum, download) => sum + download.doneBytes, 0) / total;
  });
  /** Models that came while something else was looked at. */
  readonly #arrived = new SvelteSet<string>();
  readonly hasArrived: boolean = $derived(this.#arrived.size > 0);
  /** Gone from the downloads; those that are in the library now have arrived. */
  #gone = new Set<string>();

  async start(): Promise<void> {
    await backend.onModelsState((state) => void this.#take(state));
    await backend.onModelState((state) => {
      if (state.type !== 'none') this.#arrived.delete(state.model.id);
    });
    const state = await this.attempt('offers', () => backend.modelsState());
    if (state) await this.#take(state);
  }

  /** The models are on the screen. */
  noteSeen(): void {
    this.#arrived.clear();
  }

  async readOffers(): Promise<void> {
    const offers = await this.attempt('offers', () => backend.listOffers());
    if (offers) this.offers = offers;
  }

  titleOf(repo: string): string {
    const known = [...this.offers, this.found].find((offer) => offer?.repo === repo);
    return known?.title ?? models.entries.find((entry) => entry.id === repo)?.name ?? repo;
  }

  pageOf(repo: string): string {
    return `${this.state?.settings.endpoint}/${repo}`;
  }

  taskOf(kind: Task['kind'], model: string): Task | undefined {
    return this.state?.tasks.find((task) => task.kind === kind && task.model === model);
  }

  async #take(next: ModelsState): Promise<void> {
    const before = this.state;
    this.state = next;
    for (const { repo } of next.downloads) this.#gone.delete(repo);
    for (const { repo } of before?.downloads ?? []) {
      if (!next.downloads.some((download) => download.repo === repo)) this.#gone.add(repo);
    }
    if (before === null || before.libraryVersion === next.libraryVersion) return;
    await models.refresh();
    this.#greet();
    await Promise.all([this.readOffers(), models.readHardware()]);
  }

  #greet(): void {
    for (const entry of models.entries) {
      if (!this.#gone.delete(entry.id) || entry.health.kind === 'damaged') continue;
      this.problems.delete(`model ${entry.id}`);
      this.reports.delete(entry.id);
      if (router.current.name !== 'models') this.#arrived.add(entry.id);
      const action = { label: t('model.load'), run: () => modelChange.load(entry.id), target: entry.id };
      toasts.show(t('downloads.arrived', { name: entry.name }), { action });
    }
  }

  /** What `call` gives; null where it failed, which is shown at `place`. */
  async attempt<T>(place: Place, call: () => Promise<T>): Promise<T | null> {
    this.problems.delete(place);
    try {
      return await call();
    } catch (thrown) {
      const error = asApiError(thrown);
      if (error.kind !== 'cancelled') this.problems.set(place, error);
      return null;
    }
  }

  async lookUp(repo: string): Promise<void> {
    this.found = null;
    this.found = await this.attempt('lookUp', () => backend.lookUpModel(repo));
  }

  async download(repo: string): Promise<void> {
    this.begun = repo;
    await this.attempt(`offer ${repo}`, () => backend.downloadModel(repo));
  }

  async pause(repo: string): Promise<void> {
    await this.attempt(`download ${repo}`, () => backend.pauseDownload(repo));
  }

  async resume(repo: string): Promise<void> {
    await this.attempt(`download ${repo}`, () => backend.resumeDownload(repo));
  }

  async cancel(repo: string): Promise<void> {
    await this.attempt(`download ${repo}`, () => backend.cancelDownload(repo));
    this.#gone.delete(repo);
  }

  async verify(entry: ModelEntry): Promise<void> {
    this.reports.delete(entry.id);
    const report = await this.attempt(`model ${entry.id}`, () => backend.verifyModel(entry.id));
    if (report) this.reports.set(entry.id, report);
  }

  async repair(id: string): Promise<void> {
    this.begun = id;
    await this.attempt(`model ${id}`, () => backend.repairModel(id));
  }

  async remove(entry: ModelEntry): Promise<number | null> {
    const removed = await this.attempt(`model ${entry.id}`, () => backend.deleteModel(entry.id));
    if (removed) toasts.drop(({ target }) => target === entry.id);
    await models.refresh();
    return removed?.freedBytes ?? null;
  }

  async import(path: string, how: ImportHow): Promise<ModelEntry | null> {
    const id = await this.attempt('import', () => backend.importModel(path, how));
    await models.refresh();
    return models.entries.find((entry) => entry.id === id) ?? null;
  }

  async move(path: string): Promise<boolean> {
    return (await this.attempt('move', () => backend.moveModels(path).then(() => true))) ?? false;
  }

  async setEndpoint(endpoint: string | null): Promise<boolean> {
    return (await this.attempt('endpoint', () => backend.setEndpoint(endpoint).then(() => true))) ?? false;
  }

  async setToken(token: string | null): Promise<boolean> {
    return (await this.attempt('token', () => backend.setToken(token).then(() => true))) ?? false;
  }

  async cancelTask(id: number): Promise<void> {
    await backend.cancelTask(id);
  }
}

export const library = new Library();
