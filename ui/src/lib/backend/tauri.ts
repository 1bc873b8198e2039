import { Channel } from '@tauri-apps/api/core';
import type { Backend } from './backend';
import { commands, events } from './bindings';

function channel<T>(on: (message: T) => void): Channel<T> {
  const made = new Channel<T>();
  made.onmessage = on;
  return made;
}

async function done(call: Promise<unknown>): Promise<void> {
  await call;
}

export const tauriBackend: Backend = {
  appInfo: commands.appInfo,
  hardware: commands.hardware,
  diagnostics: commands.diagnostics,
  openExternal: (url) => done(commands.openExternal(url)),
  revealLogs: () => done(commands.revealLogs()),
  frontendReady: () => done(commands.frontendReady()),
  readyToClose: () => done(commands.readyToClose()),

  loadSettings: commands.loadSettings,
  saveSettings: commands.saveSettings,
  defaultSettings: commands.defaultSettings,

  listModels: commands.listModels,
  planModel: commands.planModel,
  loadModel: commands.loadModel,
  cancelLoad: () => done(commands.cancelLoad()),
  unloadModel: () => done(commands.unloadModel()),
  modelState: commands.modelState,
  pickFolder: commands.pickFolder,

  modelsState: commands.modelsState,
  listOffers: commands.listOffers,
  lookUpModel: commands.lookUpModel,
  downloadModel: (repo) => done(commands.downloadModel(repo)),
  pauseDownload: (repo) => done(commands.pauseDownload(repo)),
  resumeDownload: (repo) => done(commands.resumeDownload(repo)),
  cancelDownload: (repo) => done(commands.cancelDownload(repo)),
  verifyModel: commands.verifyModel,
  repairModel: (id) => done(commands.repairModel(id)),
  deleteModel: commands.deleteModel,
  importModel: commands.importModel,
  moveModels: (path) => done(commands.moveModels(path)),
  cancelTask: (id) => done(commands.cancelTask(id)),
  revealModel: (id) => done(commands.revealModel(id)),
  revealModels: () => done(commands.revealModels()),
  setEndpoint: (endpoint) => done(commands.setEndpoint(endpoint)),
  setToken: commands.setToken,
  checkToken: commands.checkToken,

  listChats: commands.listChats,
  getChat: commands.getChat,
  createChat: commands.createChat,
  renameChat: (id, title) => done(commands.renameChat(id, title)),
  pinChat: (id, pinned) => done(commands.pinChat(id, pinned)),
  deleteChat: (id) => done(commands.deleteChat(id)),
  showBranch: commands.showBranch,
  deleteMessage: commands.deleteMessage,
  listDeletions: commands.listDeletions,
  restore: commands.restore,
  deleteForGood: (deletion) => done(commands.deleteForGood(deletion)),
  emptyTrash: () => done(commands.emptyTrash()),
  getDraft: commands.getDraft,
  setDraft: (chatId, text) => done(commands.setDraft(chatId, text)),
  getEdits: commands.getEdits,
  setEdit: (messageId, text) => done(commands.setEdit(messageId, text)),
  searchChats: commands.searchChats,
  exportChat: commands.exportChat,
  importChats: commands.importChats,
  importDroppedChats: commands.importDroppedChats,
  listBackups: commands.listBackups,
  restoreBackup: commands.restoreBackup,
  retryChats: commands.retryChats,

  sendMessage: (chatId, parentId, text, on) => commands.sendMessage(chatId, parentId, text, channel(on)),
  regenerate: (chatId, messageId, on) => done(commands.regenerate(chatId, messageId, channel(on))),
  editMessage: (chatId, messageId, text, on) => done(commands.editMessage(chatId, messageId, text, channel(on))),
  continueAnswer: (chatId, answerId, on) => done(commands.continueAnswer(chatId, answerId, channel(on))),
  runningAnswers: commands.runningAnswers,
  attachAnswer: (chatId, on) => done(commands.attachAnswer(chatId, channel(on))),
  stopGeneration: (chatId) => done(commands.stopGeneration(chatId)),
  contextUsage: commands.contextUsage,

  watchExperts: (on) => done(commands.watchExperts(channel(on))),
  unwatchExperts: () => done(commands.unwatchExperts()),

  onModelsState: (on) => events.modelsChanged.listen((event) => on(event.payload)),
  onModelState: (on) => events.modelStateChanged.listen((event) => on(event.payload)),
  onFilesDropped: (on) => events.filesDropped.listen((event) => on(event.payload)),
  onChatsChanged: (on) => events.chatsChanged.listen((event) => on(event.payload)),
  onClosing: (on) => events.closing.listen(on)
};
