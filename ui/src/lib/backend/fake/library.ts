import type {
  Download,
  DownloadState,
  ImportHow,
  InvalidInput,
  ModelEntry,
  ModelsError,
  ModelsState,
  Offer,
  Removed,
  Task,
  TaskKind,
  TokenNote,
  TokenPlace,
  VerifyReport
} from '../bindings';
import type { FakeModels } from './models';
import { CATALOGUE, fetched, OTHER } from './offers';
import { failure, refused } from './failures';
import type { Options } from './options';

const TICK_MS = 200;
/** How far a download comes that is made to fail, stall or wait. */
const TROUBLE_AT = 0.3;
const RETRY_SECONDS = 3;
const PREPARING_MS = 400;

interface Job {
  download: Download;
  /** Milliseconds in the state it is in. */
  inState: number;
  hasFailed: boolean;
  /** Shown as it is, for pictures. */
  isFrozen: boolean;
}

/** A failure of a download. */
const problem = (kind: string): ModelsError => failure(kind as ModelsError['kind']);

/** Downloads, the library's tasks and settings, as time goes by. */
export class FakeLibrary {
  #jobs: Job[] = [];
  #tasks: Task[] = [];
  #version = 1;
  #settings: ModelsState['settings'];
  #listeners = new Set<(state: ModelsState) => void>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #lastTask = 0;
  #cancelledTasks = new Set<number>();
  #repaired = new Set<string>();
  token: string | null = null;

  constructor(
    private readonly options: Options,
    private readonly models: FakeModels
  ) {
    this.#settings = {
      folder: '/home/ada/.cache/huggingface/hub',
      folderFrom: 'hubCache',
      endpoint: 'https://huggingface.co',
      endpointFrom: 'default',
      token: options.token as TokenPlace | null,
      tokenNote: null
    };
    options.downloads.forEach((kind, index) => this.#freeze(kind, index));
  }

  listen(on: (state: ModelsState) => void): () => void {
    this.#listeners.add(on);
    return () => this.#listeners.delete(on);
  }

  get state(): ModelsState {
    return structuredClone({
      downloads: this.#jobs.map((job) => job.download),
      tasks: this.#tasks,
      libraryVersion: this.#version,
      settings: this.#settings
    });
  }

  offers(): Offer[] {
    if (this.options.offers === 'none') return [];
    return CATALOGUE.map((offer) => this.#offered(offer));
  }

  lookUp(repo: string): Offer {
    if (!/^[\w.-]+\/[\w.-]+$/.test(repo)) throw refused('invalid');
    const known = [...CATALOGUE, OTHER].find((offer) => offer.repo.toLowerCase() === repo.toLowerCase());
    if (!known) throw repo.includes('gguf') ? refused('foreign') : refused('missing', { what: repo });
    return this.#offered(known);
  }

  #offered(offer: Offer): Offer {
    const installed = this.models.entries.find((entry) => entry.id === offer.repo);
    const free = this.options.disk === 'small' ? 9.1e9 : 143e9;
    return {
      ...offer,
      fit:
        this.options.hasGpu || offer.fit.badge === 'tooBig'
          ? offer.fit
          : { ...offer.fit, badge: 'tight', expertsOnGpu: null, expertsInRam: 92, vramBytes: null },
      disk: { neededBytes: offer.sizeBytes, freeBytes: free, isEnough: free > offer.sizeBytes },
      status: installed
        ? installed.health.kind === 'good'
          ? 'installed'
          : 'damaged'
        : this.#jobs.some((job) => job.download.repo === offer.repo)
          ? 'downloading'
          : 'available'
    };
  }

  #freeze(kind: string, index: number): void {
    const repo = CATALOGUE[index]?.repo ?? `ada/Mixtral-8x7B-HQQ-${index}`;
    const job = this.#add(repo, false);
    const states: Record<string, DownloadState> = {
      queued: { kind: 'queued', ahead: Math.max(1, index) },
      preparing: { kind: 'preparing' },
      stalled: { kind: 'stalled', seconds: 34 },
      retrying: { kind: 'retrying', inSeconds: 12, problem: problem('network') },
      paused: { kind: 'paused', reason: 'asked' },
      interrupted: { kind: 'paused', reason: 'interrupted' }
    };
    job.download.state = states[kind] ?? (kind === 'running' ? { kind: 'running' } : { kind: 'failed', problem: problem(kind) });
    job.isFrozen = kind !== 'paused' && kind !== 'interrupted';
    if (kind !== 'queued' && kind !== 'preparing') this.#fill(job, 0.41);
    if (kind === 'running') Object.assign(job.download, { bytesPerSec: 38.2e6, secondsLeft: 285 });
  }

  #add(repo: string, isRepair: boolean): Job {
    const job: Job = {
      download: {
        repo,
        state: { kind: 'preparing' },
        doneBytes: 0,
        totalBytes: 0,
        filesDone: 0,
        files: 0,
        bytesPerSec: 0,
        secondsLeft: null,
        isRepair
      },
      inState: 0,
      hasFailed: false,
      isFrozen: false
    };
    this.#jobs.push(job);
    this.#start();
    return job;
  }

  #fill(job: Job, share: number): void {
    const { download } = job;
    download.totalBytes = download.isRepair ? 66.4e6 : 18.2e9;
    download.files = download.isRepair ? 1 : 259;
    download.doneBytes = Math.round(download.totalBytes * share);
    download.filesDone = Math.floor(download.files * share);
  }

  download(repo: string, isRepair = false): void {
    const known = this.#jobs.find((job) => job.download.repo === repo);
    if (known) return this.resume(repo);
    if (this.options.disk === 'small') throw refused('diskFull');
    this.#add(repo, isRepair);
    this.#told();
  }

  pause(repo: string): void {
    const job = this.#job(repo);
    this.#to(job, { kind: 'paused', reason: 'asked' });
    this.#told();
  }

  resume(repo: string): void {
    const job = this.#job(repo);
    job.isFrozen = false;
    this.#to(job, { kind: 'preparing' });
    this.#start();
    this.#told();
  }

  cancel(repo: string): void {
    this.#job(repo);
    this.#jobs = this.#jobs.filter((job) => job.download.repo !== repo);
    this.#told();
  }

  #job(repo: string): Job {
    const job = this.#jobs.find((one) => one.download.repo === repo);
    if (!job) throw refused('notFound');
    return job;
  }

  #to(job: Job, state: DownloadState): void {
    job.inState = 0;
    Object.assign(job.download, { state, bytesPerSec: 0, secondsLeft: null });
  }

  #start(): void {
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  #tick(): void {
    const isOver = ({ download: { state } }: Job) => state.kind === 'paused' || state.kind === 'failed';
    const waiting = this.#jobs.filter((job) => !job.isFrozen && !isOver(job));
    waiting.forEach((job, ahead) => (ahead === 0 ? this.#advance(job) : this.#to(job, { kind: 'queued', ahead })));
    if (waiting.length === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    this.#told();
  }

  #advance(job: Job): void {
    const { download } = job;
    job.inState += TICK_MS;
    switch (download.state.kind) {
      case 'queued':
        return this.#to(job, { kind: 'preparing' });
      case 'preparing':
        if (job.inState < PREPARING_MS) return;
        if (download.totalBytes === 0) this.#fill(job, 0);
        return this.#to(job, { kind: 'running' });
      case 'retrying': {
        const inSeconds = RETRY_SECONDS - Math.floor(job.inState / 1000);
        if (inSeconds > 0) download.state = { ...download.state, inSeconds };
        else this.#to(job, { kind: 'running' });
        return;
      }
      case 'stalled':
        download.state = { kind: 'stalled', seconds: 10 + Math.floor(job.inState / 1000) };
        if (job.inState > 3000) this.#to(job, { kind: 'running' });
        return;
      default:
        return this.#run(job);
    }
  }

  #run(job: Job): void {
    const { download } = job;
    const { failures, downloadMs } = this.options;
    const share = Math.min(1, download.doneBytes / download.totalBytes + TICK_MS / downloadMs);
    this.#fill(job, share);
    if (share >= TROUBLE_AT && !job.hasFailed) {
      const kind = failures.get('download') ?? failures.get('retry');
      job.hasFailed = true;
      if (kind) {
        const what = problem(kind);
        return this.#to(
          job,
          failures.has('download') ? { kind: 'failed', problem: what } : { kind: 'retrying', inSeconds: RETRY_SECONDS, problem: what }
        );
      }
      if (failures.has('stall')) return this.#to(job, { kind: 'stalled', seconds: 10 });
    }
    if (share >= 1) return this.#arrived(download);
    const left = ((1 - share) * downloadMs) / 1000;
    Object.assign(download, { bytesPerSec: download.totalBytes / (downloadMs / 1000), secondsLeft: Math.ceil(left) });
  }

  #arrived(download: Download): void {
    this.#jobs = this.#jobs.filter((job) => job.download !== download);
    const known = this.models.entries.find((entry) => entry.id === download.repo);
    this.#repaired.add(download.repo);
    if (known) known.health = { kind: 'good', verifiedAtMs: Date.now() };
    else this.models.entries.push(fetched(this.lookUp(download.repo), this.#settings.folder));
    this.#version++;
  }

  /** Counts bytes for a while; rejects when it is cancelled. */
  async #work(kind: TaskKind, model: string | null, totalBytes: number): Promise<void> {
    const task: Task = { id: ++this.#lastTask, kind, model, doneBytes: 0, totalBytes, bytesPerSec: 0, secondsLeft: null };
    this.#tasks.push(task);
    this.#told();
    const start = performance.now();
    for (let share = 0; share < 1;) {
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
      share = Math.min(1, (performance.now() - start) / this.options.taskMs);
      const left = ((1 - share) * this.options.taskMs) / 1000;
      Object.assign(task, {
        doneBytes: Math.round(share * totalBytes),
        bytesPerSec: totalBytes / (this.options.taskMs / 1000),
        secondsLeft: Math.ceil(left)
      });
      if (this.#cancelledTasks.has(task.id)) break;
      this.#told();
    }
    this.#tasks = this.#tasks.filter((one) => one !== task);
    this.#told();
    if (this.#cancelledTasks.has(task.id)) throw refused('cancelled');
  }

  cancelTask(id: number): void {
    this.#cancelledTasks.add(id);
  }

  /** As the library does: only sizes and headers tell of damage later, a check's findings are in its report. */
  async verify(id: string): Promise<VerifyReport> {
    const entry = this.models.entry(id);
    await this.#work('verify', id, entry.sizeBytes);
    const wasDamaged = entry.health.kind === 'damaged';
    const isBad = wasDamaged || (this.options.verify === 'bad' && !this.#repaired.has(id));
    const bad = isBad
      ? [
          {
            file: 'model-00017-of-00257.safetensors',
            fault: { kind: 'content' as const, found: '90ab41cc07fe', expected: '3f1c0a9be2d4' }
          }
        ]
      : [];
    const isKnown = entry.kind === 'hub';
    if (!isBad && isKnown) entry.health = { kind: 'good', verifiedAtMs: Date.now() };
    this.#changed();
    return { model: id, files: isKnown ? 257 : 0, bytes: isKnown ? entry.sizeBytes : 0, bad, unknown: isKnown ? 2 : 0 };
  }

  /** Only what came from the hub can be had again. */
  async repair(id: string): Promise<void> {
    if (this.models.entry(id).kind !== 'hub') throw refused('invalid', { input: { kind: 'notRepairable', model: id } });
    this.download(id, true);
  }

  remove(id: string): Removed {
    const entry = this.models.entry(id);
    const { state } = this.models;
    if (state.type !== 'none' && state.type !== 'failed' && state.model.id === id) throw refused('inUse');
    this.models.entries = this.models.entries.filter((one) => one !== entry);
    this.#changed();
    return { model: id, freedBytes: entry.freesBytes };
  }

  async import(path: string, how: ImportHow): Promise<string> {
    const name = path.split(/[\\/]/).at(-1) ?? path;
    if (how === 'copy') await this.#work('import', name, 18.2e9);
    const kind: ModelEntry['kind'] = how === 'copy' ? 'imported' : 'linked';
    const known = this.models.entries.find((entry) => entry.path === path);
    const entry: ModelEntry = {
      ...fetched(this.offers()[0] as Offer, ''),
      id: name,
      name,
      kind,
      path,
      freesBytes: how === 'copy' ? 18.2e9 : 0
    };
    if (!known) this.models.entries.push(entry);
    this.#changed();
    return entry.id;
  }

  async move(path: string): Promise<void> {
    if (this.#jobs.some((job) => job.download.state.kind !== 'paused')) throw refused('inUse');
    await this.#work(
      'move',
      null,
      this.models.entries.reduce((sum, entry) => sum + entry.freesBytes, 0)
    );
    this.#settings = { ...this.#settings, folder: path, folderFrom: 'chosen' };
    this.#changed();
  }

  setEndpoint(endpoint: string | null): void {
    if (endpoint !== null && !/^https?:\/\/\S+$/.test(endpoint)) {
      const input: InvalidInput = { kind: 'endpoint', inEnvironment: false, fault: { kind: 'notWeb' } };
      throw refused('invalid', { input });
    }
    this.#settings = {
      ...this.#settings,
      endpoint: endpoint ?? 'https://huggingface.co',
      endpointFrom: endpoint === null ? 'default' : 'chosen'
    };
    this.#told();
  }

  setToken(token: string | null): TokenPlace | null {
    this.token = token;
    const place = token === null ? null : this.options.hasKeyring ? 'keyring' : 'session';
    const tokenNote: TokenNote | null = place === 'session' ? { kind: 'notKept', problem: { kind: 'none' } } : null;
    this.#settings = { ...this.#settings, token: place, tokenNote };
    this.#told();
    return place;
  }

  checkToken(): string {
    if (this.#settings.token === null || this.token === 'wrong') throw refused('token');
    return 'ada';
  }

  #changed(): void {
    this.#version++;
    this.#told();
  }

  #told(): void {
    for (const on of this.#listeners) on(this.state);
  }
}
