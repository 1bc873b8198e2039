import type {
  AppInfo,
  Backup as ChatBackup,
  Chat,
  ChatPage,
  ChatsChanged,
  ChatSummary,
  ContextUsage,
  Deletion,
  DeletionId,
  Edit,
  Dropped,
  ExpertsFrame,
  GenerationEvent,
  HardwareInfo,
  ImportHow,
  ImportResult,
  ModelEntry,
  ModelsState,
  ModelState,
  Notice,
  Offer,
  OffloadSettings,
  PlanView,
  Removed,
  SearchHit,
  Settings,
  TokenPlace,
  VerifyReport
} from './bindings';

/** Lossless and for reading back, or for people. */
export type ExportFormat = 'json' | 'markdown';
export type Unlisten = () => void;
export type OnGeneration = (event: GenerationEvent) => void;

/**
 * Everything the window asks of the program behind it. Each call rejects with an `ApiError`.
 *
 * The calls that make an answer, and the one that attaches to it, resolve when it has ended; what happens meanwhile comes, in order, through
 * their callback.
 */
export interface Backend {
  appInfo(): Promise<AppInfo>;
  hardware(): Promise<HardwareInfo>;
  diagnostics(): Promise<string>;
  openExternal(url: string): Promise<void>;
  revealLogs(): Promise<void>;
  frontendReady(): Promise<void>;
  /** The answer to `onClosing`. */
  readyToClose(): Promise<void>;

  loadSettings(): Promise<Settings>;
  /** Returns what was kept, each value brought into its range. */
  saveSettings(settings: Settings): Promise<Settings>;
  defaultSettings(): Promise<Settings>;

  listModels(): Promise<ModelEntry[]>;
  planModel(id: string, offload: OffloadSettings): Promise<PlanView>;
  loadModel(id: string, force: boolean): Promise<ModelState>;
  cancelLoad(): Promise<void>;
  unloadModel(): Promise<void>;
  modelState(): Promise<ModelState>;
  pickFolder(): Promise<string | null>;

  modelsState(): Promise<ModelsState>;
  /** The catalogue, as it is without asking the network. */
  listOffers(): Promise<Offer[]>;
  /** Asks the hub about a repository, `owner/name`. */
  lookUpModel(repo: string): Promise<Offer>;
  downloadModel(repo: string): Promise<void>;
  pauseDownload(repo: string): Promise<void>;
  /** Goes on; tries again where it had failed. */
  resumeDownload(repo: string): Promise<void>;
  /** Deletes what had arrived. */
  cancelDownload(repo: string): Promise<void>;
  /** Resolves when every byte was compared. */
  verifyModel(id: string): Promise<VerifyReport>;
  repairModel(id: string): Promise<void>;
  deleteModel(id: string): Promise<Removed>;
  /** Takes a folder of `pickFolder` or a file of `onFilesDropped`; resolves with the model's id when it is there. */
  importModel(path: string, how: ImportHow): Promise<string>;
  /** Takes a folder of `pickFolder`; resolves when all models are there. */
  moveModels(path: string): Promise<void>;
  cancelTask(id: number): Promise<void>;
  revealModel(id: string): Promise<void>;
  revealModels(): Promise<void>;
  /** Null: the one that is used where none was chosen. */
  setEndpoint(endpoint: string | null): Promise<void>;
  /** Says where it is kept now. Null removes it. */
  setToken(token: string | null): Promise<TokenPlace | null>;
  /** The name of the account that the token belongs to. */
  checkToken(): Promise<string>;

  listChats(before: string | null, limit: number): Promise<ChatPage>;
  getChat(id: string): Promise<Chat>;
  createChat(): Promise<ChatSummary>;
  renameChat(id: string, title: string): Promise<void>;
  pinChat(id: string, pinned: boolean): Promise<void>;
  deleteChat(id: string): Promise<void>;
  /** Makes the branch active that `messageId` is on, where it was left; returns the message that it ends with. */
  showBranch(chatId: string, messageId: string): Promise<string>;
  /** Returns the token of the deletion. */
  deleteMessage(messageId: string): Promise<string>;
  /** What can still be restored, the newest first. */
  listDeletions(limit: number): Promise<Deletion[]>;
  /** Returns the chat that was deleted, or that a message was deleted from. */
  restore(deletion: DeletionId): Promise<string>;
  deleteForGood(deletion: DeletionId): Promise<void>;
  emptyTrash(): Promise<void>;
  getDraft(chatId: string | null): Promise<string>;
  setDraft(chatId: string | null, text: string): Promise<void>;
  getEdits(chatId: string): Promise<Edit[]>;
  /** Null: the message is not edited any more. */
  setEdit(messageId: string, text: string | null): Promise<void>;
  searchChats(query: string, limit: number): Promise<SearchHit[]>;
  /** Asks where to; null when the person changed their mind, else the path. */
  exportChat(chatId: string | null, format: ExportFormat): Promise<string | null>;
  importChats(): Promise<ImportResult | null>;
  /** Takes a file of `onFilesDropped`. */
  importDroppedChats(path: string): Promise<ImportResult>;
  /** Of all chats, the newest first. */
  listBackups(): Promise<ChatBackup[]>;
  /** Takes the place of all chats; resolves with where these are kept. */
  restoreBackup(path: string): Promise<string>;
  /** Opens the chats where that failed before; resolves with what there is to know about it. */
  retryChats(): Promise<Notice[]>;

  sendMessage(chatId: string | null, parentId: string | null, text: string, on: OnGeneration): Promise<string>;
  /** `messageId`: the answer there is, or what it is to answer. */
  regenerate(chatId: string, messageId: string, on: OnGeneration): Promise<void>;
  editMessage(chatId: string, messageId: string, text: string, on: OnGeneration): Promise<void>;
  continueAnswer(chatId: string, answerId: string, on: OnGeneration): Promise<void>;
  /** The chats that are being answered or wait for it. */
  runningAnswers(): Promise<string[]>;
  /** Tells where the answer of a chat stands, then what follows, in place of whoever was told before. */
  attachAnswer(chatId: string, on: OnGeneration): Promise<void>;
  stopGeneration(chatId: string): Promise<void>;
  contextUsage(chatId: string): Promise<ContextUsage | null>;

  watchExperts(on: (frame: ExpertsFrame) => void): Promise<void>;
  unwatchExperts(): Promise<void>;

  onModelsState(on: (state: ModelsState) => void): Promise<Unlisten>;
  onModelState(on: (state: ModelState) => void): Promise<Unlisten>;
  onFilesDropped(on: (files: Dropped[]) => void): Promise<Unlisten>;
  onChatsChanged(on: (change: ChatsChanged) => void): Promise<Unlisten>;
  /** The window closes as soon as `readyToClose` is called, or a second later. */
  onClosing(on: () => void): Promise<Unlisten>;
}
