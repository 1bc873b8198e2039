import type { Backend, OnGeneration } from '../backend';
import type {
  ApiError,
  Chat,
  ChatsChanged,
  Dropped,
  ExpertsFrame,
  ImportHow,
  Message,
  ModelState,
  Notice,
  Settings,
  StopReason
} from '../bindings';
import { FakeChats, message, STATS } from './chats';
import { FakeRouter } from './experts';
import { FakeLibrary } from './library';
import { FakeModels, hardware, makePlan } from './models';
import { failure, NOTICES, refused } from './failures';
import { readOptions, type Options } from './options';
import { answerTo } from './texts';

/** The production build is searched for this. */
const MARK = 'octet-fake-backend';

/** What a browser test may look at. */
export interface Witness {
  opened: string[];
  settings: Settings;
  drafts: [string | null, string][];
  forcedLoads: number;
  imports: [string, ImportHow][];
  token: () => string | null;
  /** As if these were dropped on the window. */
  drop: (files: Dropped[]) => void;
  /** Closes the window, as far as the page is asked. */
  close: () => void;
  closes: number;
}

declare global {
  interface Window {
    octetFake?: Witness;
  }
}

const DEFAULTS: Settings = {
  version: 1,
  sampling: {
    temperature: 0.7,
    topP: 0.95,
    topK: 0,
    minP: 0,
    repetitionPenalty: 1,
    maxTokens: null,
    seed: null,
    stop: [],
    systemPrompt: ''
  },
  presets: [],
  activePreset: null,
  offload: {
    preset: 'auto',
    expertsPerLayerOnGpu: null,
    misses: 'auto',
    prefetch: null,
    vramBudgetBytes: null,
    ramBudgetBytes: null,
    contextLength: null,
    threads: null
  },
  appearance: { theme: 'system', textSize: 15, zoom: 100, language: null, reduceMotion: 'system' },
  lastModel: null,
  loadLastModelOnStart: true,
  sidebarOpen: true,
  paneOpen: true
};

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const copy = <T>(value: T): T => structuredClone(value);

interface Job {
  chat: Chat;
  answer: Message;
  userMessage: Message | null;
  /** The answer as it was, where it is continued. */
  before: Message | null;
  on: OnGeneration;
}

class Fake {
  settings: Settings = copy(DEFAULTS);
  readonly chats: FakeChats;
  readonly models: FakeModels;
  readonly library: FakeLibrary;
  readonly witness: Witness;
  onDrop: (files: Dropped[]) => void = () => undefined;
  #stopped = new Set<string>();
  #running: Promise<void> = Promise.resolve();
  readonly #jobs = new Map<string, { job: Job; end: Promise<void> }>();
  #queue = 0;
  #router: FakeRouter;
  #watch: ((frame: ExpertsFrame) => void) | null = null;

  constructor(readonly options: Options) {
    if (options.theme) this.settings.appearance.theme = options.theme as Settings['appearance']['theme'];
    if (options.language) this.settings.appearance.language = options.language;
    this.chats = new FakeChats(options);
    this.models = new FakeModels(options, () => this.settings.offload);
    this.library = new FakeLibrary(options, this.models);
    this.#router = new FakeRouter(this.models.state);
    this.models.listen((state) => {
      if (state.type === 'loading') return;
      if (state.type === 'ready') this.settings.lastModel = state.model.id;
      this.#router = new FakeRouter(state);
      this.#watch?.(this.#router.frame);
    });
    this.witness = {
      opened: [],
      settings: this.settings,
      drafts: [],
      forcedLoads: 0,
      imports: [],
      token: () => this.library.token,
      drop: (files) => this.onDrop(files),
      close: () => {},
      closes: 0
    };
  }

  watch(on: ((frame: ExpertsFrame) => void) | null): void {
    this.#watch = on;
    on?.(this.#router.frame);
  }

  stop(chatId: string): void {
    this.#stopped.add(chatId);
  }

  /** One answer at a time; a model that loads is waited for. */
  async run(job: Job): Promise<void> {
    this.#stopped.delete(job.chat.id);
    const before = this.#running;
    if (this.#queue > 0) job.on({ type: 'queued', reason: 'busy', position: this.#queue });
    this.#queue++;
    const end = before.then(() => this.#answer(job));
    this.#running = end;
    this.#jobs.set(job.chat.id, { job, end });
    try {
      await end;
    } finally {
      this.#queue--;
    }
  }

  runningAnswers(): string[] {
    return [...this.#jobs.keys()];
  }

  async attach(chatId: string, on: OnGeneration): Promise<void> {
    const running = this.#jobs.get(chatId);
    if (!running) return;
    const { job, end } = running;
    on({ type: 'started', userMessage: job.userMessage && copy(job.userMessage), answer: copy(job.answer) });
    job.on = on;
    await end;
  }

  /** An answer that was begun before the page came. */
  begin(): void {
    const chat = this.chats.create('Begun before');
    const userMessage = message(null, 'user', 'How do experts work?', Date.now());
    const answer: Message = { ...message(userMessage, 'assistant', '', Date.now()), state: 'streaming', stats: null };
    void this.run({ chat, userMessage, answer, before: null, on: () => {} });
  }

  async #answer(job: Job): Promise<void> {
    if (this.models.state.type === 'loading') job.on({ type: 'queued', reason: 'modelLoading', position: 1 });
    while (this.models.state.type === 'loading' && !this.#stopped.has(job.chat.id)) await pause(50);
    const { chat, answer, userMessage } = job;
    const on: OnGeneration = (event) => job.on(event);
    const leaf = chat.activeLeaf;
    if (userMessage) this.chats.put(chat, userMessage);
    this.chats.put(chat, answer);
    this.chats.setLeaf(chat, answer.id);
    on({ type: 'started', userMessage: userMessage && copy(userMessage), answer: copy(answer) });
    this.chats.changed(chat.id);
    if (this.#stopped.has(chat.id)) {
      const ids = [answer.id, userMessage?.id ?? ''];
      if (job.before) this.chats.put(chat, job.before);
      this.chats.withdraw(chat, job.before?.id === answer.id ? [] : ids, leaf);
      this.#jobs.delete(chat.id);
      on({ type: 'takenBack' });
      return;
    }
    await this.#read(job);
    await this.#stream(job);
    this.#jobs.delete(chat.id);
    this.#router.rest();
    this.#watch?.(this.#router.frame);
    this.chats.changed(chat.id);
  }

  /** As the engine does: 20 reports a second at most, and the time left after two seconds. */
  async #read(job: Job): Promise<void> {
    const { chat } = job;
    const { promptMs, promptTokens: total } = this.options;
    const start = performance.now();
    for (;;) {
      const spent = performance.now() - start;
      const fraction = Math.min(1, promptMs > 0 ? spent / promptMs : 1);
      const secondsLeft = spent >= 2000 && fraction < 1 ? Math.ceil((promptMs - spent) / 1000) : null;
      job.on({ type: 'prefill', done: Math.floor(fraction * total), total, reused: 0, fraction, secondsLeft });
      if (fraction === 1 || this.#stopped.has(chat.id)) return;
      await pause(50);
    }
  }

  async #stream(job: Job): Promise<void> {
    const { chat, answer, before } = job;
    const on: OnGeneration = (event) => job.on(event);
    const question = chat.messages.find((one) => one.id === answer.parentId)?.text ?? '';
    const full = answerTo(question, this.options.answer);
    const pieces = full.slice(answer.text.length).match(/[\s\S]{1,4}/g) ?? [];
    const rate = this.options.tokensPerSec;
    const finish = (state: Message['state'], reason: StopReason, tokens: number) =>
      this.#finish(chat, { ...answer, state }, before, on, reason, tokens);
    const start = performance.now();
    for (const [index, delta] of pieces.entries()) {
      if (this.#stopped.has(chat.id)) return finish('stopped', 'cancelled', index);
      if (this.options.failures.has('answer') && index === 12) return this.#fail(chat, answer, on);
      const late = start + (index * 1000) / rate - performance.now();
      if (late > 1) await pause(late);
      answer.text += delta;
      const lastExperts = this.#router.token(rate);
      on({ type: 'text', delta, tokens: index + 1, tokensPerSec: index > 0 ? rate : null, contextUsed: 120 + index + 1, lastExperts });
      this.#watch?.(this.#router.frame);
    }
    finish('complete', 'eos', pieces.length);
  }

  #finish(chat: Chat, answer: Message, before: Message | null, on: OnGeneration, stopReason: StopReason, made: number): void {
    const newTokens = made + (before?.stats?.newTokens ?? 0);
    const scope = before === null || before.text === '' ? 'whole' : before.stats === null ? 'lastPart' : 'continued';
    const tokensPerSec = made > 1 ? this.options.tokensPerSec : (before?.stats?.tokensPerSec ?? 0);
    const final = { ...answer, stats: { ...STATS, stopReason, newTokens, tokensPerSec, scope } satisfies Message['stats'] };
    this.chats.put(chat, final);
    on({ type: 'done', message: copy(final), contextUsed: 120 + made, contextLength: this.contextLength() });
  }

  #fail(chat: Chat, answer: Message, on: OnGeneration): void {
    const error: ApiError = failure(this.options.failures.get('answer') ?? 'gpuFailed');
    const final: Message = { ...answer, state: 'error', error: JSON.stringify(error) };
    this.chats.put(chat, final);
    on({ type: 'failed', message: copy(final), error });
  }

  contextLength(): number {
    return this.models.state.type === 'ready' ? this.models.state.plan.contextLength : 8192;
  }
}

function answering(fake: Fake): Pick<Backend, 'sendMessage' | 'regenerate' | 'editMessage' | 'continueAnswer'> {
  const fresh = (question: Message): Message => ({
    ...message(question, 'assistant', '', Date.now()),
    state: 'streaming',
    stats: null
  });
  const requireModel = () => {
    if (fake.models.state.type === 'none' || fake.models.state.type === 'failed') throw refused('notLoaded');
  };
  const find = (chat: Chat, id: string): Message => {
    const found = chat.messages.find((one) => one.id === id);
    if (!found) throw refused('notStored');
    return found;
  };
  return {
    async sendMessage(chatId, parentId, text, on) {
      requireModel();
      const chat = chatId === null ? fake.chats.create() : fake.chats.get(chatId);
      if (chat.title === '') chat.title = text.split('\n')[0]?.slice(0, 48) ?? '';
      const parent = chat.messages.find((one) => one.id === parentId) ?? null;
      const userMessage = message(parent, 'user', text, Date.now());
      await fake.run({ chat, userMessage, answer: fresh(userMessage), before: null, on });
      return chat.id;
    },
    async regenerate(chatId, messageId, on) {
      requireModel();
      const chat = fake.chats.get(chatId);
      const named = find(chat, messageId);
      const question = named.role === 'user' ? named : find(chat, named.parentId ?? '');
      await fake.run({ chat, userMessage: null, answer: fresh(question), before: null, on });
    },
    async editMessage(chatId, messageId, text, on) {
      requireModel();
      const chat = fake.chats.get(chatId);
      const parent = chat.messages.find((one) => one.id === find(chat, messageId).parentId) ?? null;
      const userMessage = message(parent, 'user', text, Date.now());
      await fake.run({ chat, userMessage, answer: fresh(userMessage), before: null, on });
    },
    async continueAnswer(chatId, answerId, on) {
      requireModel();
      const chat = fake.chats.get(chatId);
      const before = find(chat, answerId);
      const isFollowed = chat.messages.some(({ parentId }) => parentId === answerId);
      // What follows belongs to the answer as it is.
      const answer = isFollowed
        ? { ...fresh(find(chat, before.parentId ?? '')), text: before.text }
        : { ...before, state: 'streaming' as const, stats: null };
      await fake.run({ chat, userMessage: null, answer, before, on });
    }
  };
}

function listing(
  fake: Fake
): Pick<
  Backend,
  | 'listChats'
  | 'getChat'
  | 'createChat'
  | 'renameChat'
  | 'pinChat'
  | 'deleteChat'
  | 'showBranch'
  | 'deleteMessage'
  | 'listDeletions'
  | 'restore'
  | 'deleteForGood'
  | 'emptyTrash'
  | 'getDraft'
  | 'setDraft'
  | 'getEdits'
  | 'setEdit'
  | 'searchChats'
  | 'exportChat'
  | 'importChats'
  | 'importDroppedChats'
  | 'listBackups'
  | 'restoreBackup'
  | 'retryChats'
> {
  const { chats } = fake;
  return {
    listChats: async (before, limit) => chats.list(before, limit),
    getChat: async (id) => copy(chats.get(id)),
    createChat: async () => chats.summary(chats.create()),
    renameChat: async (id, title) => chats.update(id, { title }),
    pinChat: async (id, pinned) => chats.update(id, { pinned }),
    deleteChat: async (id) => chats.remove(id),
    showBranch: async (chatId, messageId) => chats.showBranch(chatId, messageId),
    deleteMessage: async (id) => chats.removeMessage(id),
    listDeletions: async (limit) => chats.deletions(limit),
    restore: async (deletion) => chats.restore(deletion),
    deleteForGood: async (deletion) => chats.deleteForGood(deletion),
    emptyTrash: async () => chats.emptyTrash(),
    getDraft: async (chatId) => chats.draft(chatId),
    setDraft: async (chatId, text) => {
      chats.setDraft(chatId, text);
      fake.witness.drafts.push([chatId, text]);
    },
    getEdits: async (chatId) => chats.edits(chatId),
    setEdit: async (messageId, text) => chats.setEdit(messageId, text),
    searchChats: async (query, limit) => chats.search(query, limit),
    exportChat: async (_chatId, format) => `/home/ada/octet-chats.${format === 'json' ? 'json' : 'md'}`,
    importChats: async () => {
      chats.create('An imported chat');
      return { chats: 1, messages: 0 };
    },
    importDroppedChats: async (path) => {
      if (!path.endsWith('octet.json')) throw refused('importForeign');
      chats.create('A dropped chat');
      return { chats: 1, messages: 0 };
    },
    listBackups: async () =>
      [1, 3].map((daysAgo) => ({
        path: `/home/ada/.local/share/octet/backups/chats-${daysAgo}.db`,
        createdAt: Date.now() - daysAgo * 86_400_000,
        sizeBytes: 4.2e6
      })),
    restoreBackup: async (path) => {
      chats.create(`From ${path}`);
      return '/home/ada/.local/share/octet/chats.damaged-1.db';
    },
    retryChats: async () => []
  };
}

function modelling(
  fake: Fake
): Pick<Backend, 'listModels' | 'planModel' | 'loadModel' | 'cancelLoad' | 'unloadModel' | 'modelState' | 'pickFolder'> {
  const { models, options } = fake;
  return {
    listModels: async () => copy(models.entries),
    planModel: async (id, offload) => makePlan(models.entry(id), offload, options),
    loadModel: async (id, force) => {
      if (force) fake.witness.forcedLoads++;
      return models.load(id, force);
    },
    cancelLoad: async () => models.cancel(),
    unloadModel: async () => models.unload(),
    modelState: async () => models.state,
    pickFolder: async () => '/home/ada/models/mixtral-offloading'
  };
}

function keeping(
  fake: Fake
): Pick<
  Backend,
  | 'modelsState'
  | 'listOffers'
  | 'lookUpModel'
  | 'downloadModel'
  | 'pauseDownload'
  | 'resumeDownload'
  | 'cancelDownload'
  | 'verifyModel'
  | 'repairModel'
  | 'deleteModel'
  | 'importModel'
  | 'moveModels'
  | 'cancelTask'
  | 'revealModel'
  | 'revealModels'
  | 'setEndpoint'
  | 'setToken'
  | 'checkToken'
> {
  const { library, witness } = fake;
  return {
    modelsState: async () => library.state,
    listOffers: async () => library.offers(),
    lookUpModel: async (repo) => {
      await pause(300);
      return library.lookUp(repo);
    },
    downloadModel: async (repo) => library.download(repo),
    pauseDownload: async (repo) => library.pause(repo),
    resumeDownload: async (repo) => library.resume(repo),
    cancelDownload: async (repo) => library.cancel(repo),
    verifyModel: (id) => library.verify(id),
    repairModel: (id) => library.repair(id),
    deleteModel: async (id) => library.remove(id),
    importModel: (path, how) => {
      witness.imports.push([path, how]);
      return library.import(path, how);
    },
    moveModels: (path) => library.move(path),
    cancelTask: async (id) => library.cancelTask(id),
    revealModel: async (id) => void witness.opened.push(fake.models.entry(id).path),
    revealModels: async () => void witness.opened.push(library.state.settings.folder),
    setEndpoint: async (endpoint) => library.setEndpoint(endpoint),
    setToken: async (token) => {
      await pause(fake.options.keyringMs);
      return library.setToken(token);
    },
    checkToken: async () => library.checkToken()
  };
}

/** A back end that lives in the page. Calls named in `fail` reject. */
export function createFake(params: URLSearchParams): Backend {
  const fake = new Fake(readOptions(params));
  if (typeof window !== 'undefined') window.octetFake = fake.witness;
  const { options } = fake;
  if (options.isAnswering) fake.begin();
  const full: Backend = {
    ...listing(fake),
    ...modelling(fake),
    ...keeping(fake),
    ...answering(fake),
    appInfo: async () => ({
      version: '0.1.0',
      os: 'linux',
      arch: 'x86_64',
      dataDir: '/home/ada/.local/share/octet',
      configDir: '/home/ada/.config/octet',
      logDir: '/home/ada/.local/share/octet/logs',
      modelsDir: '/home/ada/.local/share/octet/models',
      notices: options.notice ? [NOTICES[options.notice as Notice['kind']]] : [],
      firstStart: options.isFirstStart
    }),
    hardware: async () => hardware(options),
    diagnostics: async () => `Octet 0.1.0 (${MARK})\nos linux x86_64\ngpu ${options.hasGpu ? 'RTX 3060' : 'none'}`,
    openExternal: async (url) => void fake.witness.opened.push(url),
    revealLogs: async () => void fake.witness.opened.push('logs'),
    frontendReady: async () => {},
    readyToClose: async () => void fake.witness.closes++,
    loadSettings: async () => copy(fake.settings),
    saveSettings: async (settings) => {
      fake.settings = copy(settings);
      fake.settings.sampling.temperature = Math.min(2, Math.max(0, settings.sampling.temperature));
      fake.witness.settings = copy(fake.settings);
      return copy(fake.settings);
    },
    defaultSettings: async () => copy(DEFAULTS),
    runningAnswers: async () => fake.runningAnswers(),
    attachAnswer: (chatId, on) => fake.attach(chatId, on),
    stopGeneration: async (chatId) => fake.stop(chatId),
    contextUsage: async (chatId) => {
      if (fake.models.state.type !== 'ready') return null;
      const words = fake.chats.get(chatId).messages.reduce((sum, one) => sum + one.text.length / 4, 0);
      return { used: Math.min(fake.contextLength(), Math.round(words) + 120), length: fake.contextLength() };
    },
    watchExperts: async (on) => fake.watch(on),
    unwatchExperts: async () => fake.watch(null),
    onModelsState: async (on) => fake.library.listen(on),
    onModelState: async (on: (state: ModelState) => void) => fake.models.listen(on),
    onFilesDropped: async (on) => {
      fake.onDrop = on;
      return () => (fake.onDrop = () => undefined);
    },
    onChatsChanged: async (on: (change: ChatsChanged) => void) => fake.chats.listen(on),
    onClosing: async (on) => {
      fake.witness.close = on;
      return () => (fake.witness.close = () => {});
    }
  };
  return withFailures(full, options);
}

function withFailures(full: Backend, options: Options): Backend {
  return new Proxy(full, {
    get(target, name: keyof Backend) {
      const kind = name === 'loadModel' ? undefined : options.failures.get(name);
      if (kind === undefined) return Reflect.get(target, name) as unknown;
      return async () => {
        throw refused(kind);
      };
    }
  });
}
