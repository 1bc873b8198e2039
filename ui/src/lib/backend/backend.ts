import type {
  AppInfo,
  Chat,
  ChatPage,
  ChatsChanged,
  ChatSummary,
  ContextUsage,
  ExpertsFrame,
  GenerationEvent,
  HardwareInfo,
  ImportResult,
  ModelEntry,
  ModelState,
  OffloadSettings,
  PlanView,
  SearchHit,
  Settings
} from './bindings';

/** Lossless and for reading back, or for people. */
export type ExportFormat = 'json' | 'markdown';
export type Unlisten = () => void;
export type OnGeneration = (event: GenerationEvent) => void;

/**
 * Everything the window asks of the program behind it. Each call rejects with an `ApiError`.
 *
 * The four calls that make an answer resolve when it has ended; what happens meanwhile comes, in order, through
 * their callback.
 */
export interface Backend {
  appInfo(): Promise<AppInfo>;
  hardware(): Promise<HardwareInfo>;
  diagnostics(): Promise<string>;
  openExternal(url: string): Promise<void>;
  revealLogs(): Promise<void>;
  frontendReady(): Promise<void>;

  loadSettings(): Promise<Settings>;
  /** Returns what was kept, each value brought into its range. */
  saveSettings(settings: Settings): Promise<Settings>;
  defaultSettings(): Promise<Settings>;

  listModels(): Promise<ModelEntry[]>;
  addModelFolder(path: string): Promise<ModelEntry>;
  removeModelFolder(id: string): Promise<void>;
  planModel(id: string, offload: OffloadSettings): Promise<PlanView>;
  loadModel(id: string, force: boolean): Promise<ModelState>;
  cancelLoad(): Promise<void>;
  unloadModel(): Promise<void>;
  modelState(): Promise<ModelState>;
  pickFolder(): Promise<string | null>;

  listChats(before: string | null, limit: number): Promise<ChatPage>;
  getChat(id: string): Promise<Chat>;
  createChat(): Promise<ChatSummary>;
  renameChat(id: string, title: string): Promise<void>;
  pinChat(id: string, pinned: boolean): Promise<void>;
  deleteChat(id: string): Promise<void>;
  restoreChat(id: string): Promise<void>;
  setActiveLeaf(chatId: string, messageId: string): Promise<void>;
  /** Returns what `undoDeleteMessage` takes. */
  deleteMessage(messageId: string): Promise<string>;
  undoDeleteMessage(token: string): Promise<void>;
  getDraft(chatId: string | null): Promise<string>;
  setDraft(chatId: string | null, text: string): Promise<void>;
  searchChats(query: string, limit: number): Promise<SearchHit[]>;
  /** Asks where to; null when the person changed their mind, else the path. */
  exportChat(chatId: string | null, format: ExportFormat): Promise<string | null>;
  importChats(): Promise<ImportResult | null>;

  sendMessage(chatId: string | null, parentId: string | null, text: string, on: OnGeneration): Promise<string>;
  regenerate(chatId: string, answerId: string, on: OnGeneration): Promise<void>;
  editMessage(chatId: string, messageId: string, text: string, on: OnGeneration): Promise<void>;
  continueAnswer(chatId: string, answerId: string, on: OnGeneration): Promise<void>;
  stopGeneration(chatId: string): Promise<void>;
  contextUsage(chatId: string): Promise<ContextUsage | null>;

  watchExperts(on: (frame: ExpertsFrame) => void): Promise<void>;
  unwatchExperts(): Promise<void>;

  onModelState(on: (state: ModelState) => void): Promise<Unlisten>;
  onChatsChanged(on: (change: ChatsChanged) => void): Promise<Unlisten>;
}
