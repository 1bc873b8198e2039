import type { ApiError, ErrorCode } from '../bindings';

/** What the address asks of the fake: `?model=none&gpu=0&chats=10000&messages=2000&rate=30&fail=loadModel:memory`. */
export interface Options {
  model: 'ready' | 'demo' | 'none' | 'loading' | 'failed';
  hasGpu: boolean;
  isFirstStart: boolean;
  chats: number;
  messages: number;
  tokensPerSec: number;
  /** How long loading a model takes. */
  loadMs: number;
  /** Name of the call that fails, and how. `answer` fails in the middle of an answer. */
  failures: Map<string, ErrorCode>;
  answer: string | null;
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
    loadMs: count('loadMs', 1500),
    failures,
    answer: params.get('answer'),
    notice: params.get('notice'),
    theme: params.get('theme'),
    language: params.get('lang')
  };
}

const ERRORS: Partial<Record<ErrorCode, [string, string]>> = {
  memory: [
    'the model needs 18.9 GB of RAM, 12.4 GB may be taken',
    'Close other programs, shorten the context, or load it anyway: experts are then read from disk.'
  ],
  checkpoint: [
    'model-00017-of-00257.safetensors is cut off: 41,231,872 bytes of 66,401,280',
    'Fetch the file that is named again.'
  ],
  engine: ['the GPU was lost: CUDA error 719 in the experts of layer 12', 'Send again: Octet goes on with the CPU.'],
  contextFull: ['9,120 tokens do not fit the context of 8,192', 'Shorten the text, or choose a larger context.'],
  notLoaded: ['no model is loaded', 'Load a model first.'],
  storeDamaged: ['chats.db is damaged: page 412 is malformed', 'Restore the backup of yesterday.'],
  diskFull: ['the disk is full: 0 B of 512 GB are free', 'Free some space; nothing that was saved is lost.'],
  import: ['line 3: "messages" is missing', 'Choose a file that Octet exported.']
};

export function apiError(code: ErrorCode): ApiError {
  const [message, hint] = ERRORS[code] ?? [`it failed (${code})`, 'Try again.'];
  return { code, message, hint };
}
