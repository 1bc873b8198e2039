import type { ApiError, ErrorCode, PlanError } from '../bindings';

/** What the address asks of the fake: `?model=none&gpu=0&chats=10000&messages=2000&rate=30&fail=loadModel:memory`. */
export interface Options {
  model: 'ready' | 'demo' | 'none' | 'loading' | 'failed';
  hasGpu: boolean;
  isFirstStart: boolean;
  chats: number;
  messages: number;
  tokensPerSec: number;
  /** How long the prompt is, and how long reading it takes. */
  promptTokens: number;
  promptMs: number;
  /** How long loading a model takes. */
  loadMs: number;
  /** How long a download takes, and a check, a copy or a move. */
  downloadMs: number;
  taskMs: number;
  /** Downloads that are there at the start: `running`, `paused`, ..., or the code of a failure. */
  downloads: string[];
  /** `bad`: a check finds a damaged file. */
  verify: string | null;
  /** `small`: there is no room for a model. */
  disk: string | null;
  token: string | null;
  hasKeyring: boolean;
  /** How long the keyring asks for its password. */
  keyringMs: number;
  /**
   * Name of the call that fails, and how. `answer` fails in the middle of an answer; `download`, `retry` and `stall`
   * happen to a download under way.
   */
  failures: Map<string, ErrorCode>;
  /** A second model of the same name, which has no tokenizer. */
  hasTwins: boolean;
  /** `none`: nothing is to be downloaded. */
  offers: string | null;
  answer: string | null;
  /** An answer is being made as the page comes. */
  isAnswering: boolean;
  notice: string | null;
  theme: string | null;
  language: string | null;
}

export function readOptions(params: URLSearchParams): Options {
  const count = (name: string, otherwise: number) => {
    const value = Number(params.get(name) ?? otherwise);
    return Number.isFinite(value) ? value : otherwise;
  };
  const failures = new Map<string, ErrorCode>();
  for (const each of params.getAll('fail')) {
    const [call = '', code = 'internal'] = each.split(':');
    failures.set(call, code as ErrorCode);
  }
  return {
    model: (params.get('model') ?? 'ready') as Options['model'],
    hasGpu: params.get('gpu') !== '0',
    isFirstStart: params.get('first') === '1',
    chats: count('chats', 9),
    messages: count('messages', 0),
    tokensPerSec: count('rate', 30),
    promptTokens: count('prompt', 120),
    promptMs: count('promptMs', 200),
    loadMs: count('loadMs', 1500),
    downloadMs: count('downloadMs', 8000),
    taskMs: count('taskMs', 1500),
    downloads: (params.get('downloads') ?? '').split(',').filter(Boolean),
    verify: params.get('verify'),
    disk: params.get('disk'),
    token: params.get('token'),
    hasKeyring: params.get('keyring') !== '0',
    keyringMs: count('keyringMs', 0),
    failures,
    hasTwins: params.get('twins') === '1',
    offers: params.get('offers'),
    answer: params.get('answer'),
    isAnswering: params.get('answering') === '1',
    notice: params.get('notice'),
    theme: params.get('theme'),
    language: params.get('lang')
  };
}

const ERRORS: Partial<Record<ErrorCode, [string, string]>> = {
  memory: ['The model needs 18.9 GB of RAM, 6.5 GB more than the limit of 12.4 GB.', ''],
  checkpoint: ['model-00017-of-00257.safetensors is cut off: 41,231,872 bytes of 66,401,280', 'Fetch the file that is named again.'],
  engine: ['the GPU was lost: CUDA error 719 in the experts of layer 12', 'Send again: Octet goes on with the CPU.'],
  gpu: ['The GPU failed (an illegal memory access was encountered)', 'Try again: the CPU takes over. Reload the model to use the GPU.'],
  contextFull: ['9,120 tokens do not fit the context of 8,192', 'Shorten the text, or choose a larger context.'],
  tokenizer: [
    '/home/ada/models/mixtral-3bit has no tokenizer.json, which turns text into tokens',
    'Put the model’s own tokenizer.json into its folder, then load it again.'
  ],
  notLoaded: ['no model is loaded', 'Load a model first.'],
  storeDamaged: ['chats.db is damaged: page 412 is malformed', 'Restore the backup of yesterday.'],
  diskFull: ['the disk is full: 0 B of 512 GB are free', 'Free some space; nothing that was saved is lost.'],
  gated: [
    'mistralai/Mixtral-8x7B-Instruct-v0.1 is gated: its terms must be accepted on the hub first.',
    'Open the page of mistralai/Mixtral-8x7B-Instruct-v0.1 on the hub, accept the terms with your account, then enter an access token of that account.'
  ],
  missing: [
    'The hub has no ada/nothing, or it is private.',
    'Check the spelling; if it is private, enter an access token of an account that can read it.'
  ],
  network: [
    'huggingface.co cannot be reached: connection refused.',
    'Check the connection, the proxy and the hub’s address, then try again.'
  ],
  foreign: [
    'Octet can’t run ada/some-gguf: it has no model.safetensors.index.json.',
    'Choose a Mixtral in the format of the offloading demo (config.json, model.safetensors.index.json, HQQ experts).'
  ],
  token: [
    'The hub rejects the access token: 401 Unauthorized.',
    'Create a new token with read access on the hub’s settings page, and enter it in Octet.'
  ],
  checksum: [
    'The downloaded model-00017-of-00257.safetensors is not the published one: its hash should be 3f1c0a9be2d4, but is 90ab41cc07fe.',
    'Try again; if the problem persists, a proxy or mirror changes the files: use another.'
  ],
  inUse: ['The models folder is in use by a download: pause it.', 'Unload the model or close what uses it, then try again.'],
  import: ['line 3: "messages" is missing', 'Choose a file that Octet exported.']
};

const SHORTAGE: PlanError = {
  kind: 'tooBig',
  memory: 'ram',
  neededBytes: 18.9e9,
  limitBytes: 12.4e9,
  remedies: [{ kind: 'lowerCtx', tokens: 4096 }]
};

export function apiError(code: ErrorCode): ApiError {
  const [message, hint] = ERRORS[code] ?? [`it failed (${code})`, 'Try again.'];
  return { code, message, hint, plan: code === 'memory' ? SHORTAGE : null };
}
