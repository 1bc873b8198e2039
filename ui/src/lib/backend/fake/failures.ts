import type { ApiError, Notice } from '../bindings';

export type ErrorKind = ApiError['kind'];

/** One of every kind of failure, as it may happen. */
export const FAILURES: { readonly [K in ErrorKind]: Extract<ApiError, { kind: K }> } = {
  notAModel: { kind: 'notAModel', path: '/home/ada/models/pictures', detail: 'there is no config.json in it' },
  modelFileMissing: { kind: 'modelFileMissing', path: '/home/ada/models/mixtral/model-00017-of-00257.safetensors' },
  modelFileUnreadable: {
    kind: 'modelFileUnreadable',
    path: '/home/ada/models/mixtral/model-00017-of-00257.safetensors',
    detail: 'Input/output error (os error 5)'
  },
  modelChanged: { kind: 'modelChanged', path: '/home/ada/models/mixtral/model-00017-of-00257.safetensors' },
  checkpoint: { kind: 'checkpoint', detail: 'model-00017-of-00257.safetensors is cut off: 41,231,872 bytes of 66,401,280' },
  unsupported: { kind: 'unsupported', detail: 'attention sinks' },
  plan: { kind: 'plan', detail: 'model sizes make no sense: vocab is 0' },
  tooFewSlots: { kind: 'tooFewSlots', slots: 1, needed: 3 },
  noTokenizer: { kind: 'noTokenizer', dir: '/home/ada/models/mixtral-3bit' },
  tokenizer: { kind: 'tokenizer', detail: 'tokenizer.json is damaged: expected value at line 1 column 1' },
  tokenizerMismatch: { kind: 'tokenizerMismatch', tokenizer: 32_000, model: 32_064 },
  emptyConversation: { kind: 'emptyConversation' },
  messageOrder: { kind: 'messageOrder', position: 3 },
  templateBroken: {
    kind: 'templateBroken',
    path: '/home/ada/models/mixtral/chat_template.jinja',
    detail: 'unexpected end of input (line 3)'
  },
  templateRefused: {
    kind: 'templateRefused',
    path: '/home/ada/models/mixtral/chat_template.jinja',
    detail: 'System role not supported'
  },
  cannotContinue: { kind: 'cannotContinue' },
  unknownToken: { kind: 'unknownToken', token: 40_000, vocabSize: 32_000 },
  prompt: { kind: 'prompt', detail: 'no merge for byte 7' },
  samplingRange: { kind: 'samplingRange', name: 'temperature', value: -1 },
  badOutput: { kind: 'badOutput' },
  expertUnavailable: { kind: 'expertUnavailable', layer: 12, expert: 3, detail: 'Input/output error (os error 5)' },
  noExpertSlot: { kind: 'noExpertSlot', slots: 4 },
  kernels: { kind: 'kernels', detail: 'OCTET_KERNELS is avx9' },
  computation: { kind: 'computation', detail: 'the output of layer 12 has the wrong shape' },
  gpuFailed: { kind: 'gpuFailed', detail: 'cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS' },
  contextFull: { kind: 'contextFull', limit: 8192, needed: 9120, enough: 9632 },
  cancelled: { kind: 'cancelled' },
  unloaded: { kind: 'unloaded' },

  badSizes: { kind: 'badSizes', field: 'vocab', value: 0 },
  outOfRange: { kind: 'outOfRange', option: 'ctx', value: 7, min: 16, max: 32_768 },
  contradiction: { kind: 'contradiction', device: 'cpu', preset: 'gpu12' },
  noGpu: { kind: 'noGpu', why: { kind: 'driverNotLoaded' } },
  tooBig: {
    kind: 'tooBig',
    memory: 'ram',
    neededBytes: 18.9e9,
    limitBytes: 12.4e9,
    remedies: [{ kind: 'lowerCtx', tokens: 4096 }]
  },

  storeDamaged: { kind: 'storeDamaged', path: '/home/ada/.local/share/octet/chats.db', detail: 'database disk image is malformed' },
  storeLocked: { kind: 'storeLocked', path: '/home/ada/.local/share/octet/chats.db' },
  storeNewer: { kind: 'storeNewer', path: '/home/ada/.local/share/octet/chats.db', found: 9, known: 6 },
  storeDiskFull: { kind: 'storeDiskFull', path: '/home/ada/.local/share/octet/chats.db' },
  storeFile: { kind: 'storeFile', path: '/home/ada/.config/octet/settings.json', detail: 'Permission denied (os error 13)' },
  notStored: { kind: 'notStored', what: 'chat' },
  notAnAnswer: { kind: 'notAnAnswer' },
  stillBeingWritten: { kind: 'stillBeingWritten' },
  answerEnded: { kind: 'answerEnded' },
  backupCancelled: { kind: 'backupCancelled' },
  noSuchPage: { kind: 'noSuchPage' },
  importTooLarge: { kind: 'importTooLarge', what: 'file', found: 2.1e9, limit: 1.07e9 },
  importNewer: { kind: 'importNewer', found: 2, known: 1 },
  importForeign: { kind: 'importForeign', what: 'chatGpt' },
  importNotOurs: { kind: 'importNotOurs', detail: 'it contains no chats' },
  importDamaged: { kind: 'importDamaged', line: 3, column: 14, detail: 'missing field `messages`' },
  importInconsistent: {
    kind: 'importInconsistent',
    number: 2,
    title: 'Trip',
    detail: 'some of its messages follow each other in a circle'
  },
  database: { kind: 'database', detail: 'no such table: chats' },

  gated: { kind: 'gated', repo: 'mistralai/Mixtral-8x7B-Instruct-v0.1', withToken: false },
  missing: { kind: 'missing', what: 'ada/nothing' },
  withdrawn: {
    kind: 'withdrawn',
    repo: 'ada/Mixtral-8x7B-v0.1-HQQ-3bit',
    instead: 'lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-demo'
  },
  token: { kind: 'token', detail: '401 Unauthorized' },
  network: { kind: 'network', host: 'huggingface.co', detail: 'connection refused' },
  tls: { kind: 'tls', host: 'huggingface.co', detail: 'invalid peer certificate: UnknownIssuer' },
  diskFull: { kind: 'diskFull', path: '/home/ada/.cache/huggingface/hub', neededBytes: 18.2e9, freeBytes: 9.1e9 },
  checksum: {
    kind: 'checksum',
    file: 'model-00017-of-00257.safetensors',
    expected: '3f1c0a9be2d4aa01',
    found: '90ab41cc07febb02'
  },
  rateLimited: { kind: 'rateLimited', host: 'huggingface.co', retryAfterS: 120 },
  hub: { kind: 'hub', host: 'huggingface.co', detail: '502 Bad Gateway' },
  foreign: { kind: 'foreign', what: 'ada/some-gguf', fault: { kind: 'noFile', file: 'model.safetensors.index.json' } },
  noTokenizerFound: {
    kind: 'noTokenizerFound',
    repo: 'ada/Mixtral-8x7B-HQQ',
    tried: [
      { repo: 'ada/Mixtral-8x7B-HQQ', fault: { kind: 'none' } },
      { repo: 'mistralai/Mixtral-8x7B-v0.1', fault: { kind: 'gated' } }
    ],
    gated: true
  },
  inUse: { kind: 'inUse', what: null, by: 'download' },
  notFound: { kind: 'notFound', what: 'installedModel', name: 'ada/nothing' },
  ambiguous: { kind: 'ambiguous', name: 'mixtral', candidates: ['ada/mixtral', 'bob/mixtral'] },
  invalid: { kind: 'invalid', input: { kind: 'repoName', name: 'nothing', fault: 'noOwner' } },
  modelsFile: { kind: 'modelsFile', path: '/home/ada/.cache/huggingface/hub', detail: 'Permission denied (os error 13)' },

  notLoaded: { kind: 'notLoaded' },
  unknownModel: { kind: 'unknownModel', id: 'ada/nothing' },
  chatBusy: { kind: 'chatBusy' },
  answerBusy: { kind: 'answerBusy' },
  emptyMessage: { kind: 'emptyMessage' },
  wrongMessage: { kind: 'wrongMessage' },
  folderNotPicked: { kind: 'folderNotPicked', path: '/etc' },
  fileNotDropped: { kind: 'fileNotDropped', path: '/etc/passwd' },
  linkRefused: { kind: 'linkRefused', fault: 'otherScheme' },
  notABackup: { kind: 'notABackup', path: '/tmp/chats.db' },
  restoring: { kind: 'restoring' },
  notOpened: { kind: 'notOpened', what: 'https://example.org/', detail: 'no program is registered' },
  folderNotCreated: { kind: 'folderNotCreated', path: '/home/ada/.config/octet', detail: 'Read-only file system (os error 30)' },
  demoUnusable: { kind: 'demoUnusable', detail: 'No space left on device (os error 28)' },
  internal: { kind: 'internal', detail: 'a task ended early' }
};

/** The same, to be thrown; with fields of its own. */
export const refused = (kind: ErrorKind, own: object = {}): ApiError => ({ ...FAILURES[kind], ...own });

export const failure = <K extends ErrorKind>(kind: K): Extract<ApiError, { kind: K }> => FAILURES[kind];

const CHATS = '/home/ada/.local/share/octet/chats.db';

/** One of every kind of notice. */
export const NOTICES: { readonly [K in Notice['kind']]: Extract<Notice, { kind: K }> } = {
  settingsReset: { kind: 'settingsReset', fields: ['sampling.topP', 'appearance.theme'] },
  settingsUnreadable: {
    kind: 'settingsUnreadable',
    path: '/home/ada/.config/octet/settings.damaged-1.json',
    detail: 'expected value at line 3 column 1'
  },
  settingsNotKept: {
    kind: 'settingsNotKept',
    path: '/home/ada/.config/octet/settings.json',
    detail: 'Permission denied (os error 13)'
  },
  storeUnavailable: { kind: 'storeUnavailable', path: CHATS, error: FAILURES.storeDamaged },
  storeRestored: { kind: 'storeRestored', path: `${CHATS}.damaged-1`, chats: 12, messages: 340 },
  interruptedAnswers: { kind: 'interruptedAnswers', count: 1 }
};
