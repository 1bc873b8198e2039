import type { ErrorKind } from './failures';

/** What the address asks of the fake: `?model=none&gpu=0&chats=10000&messages=2000&rate=30&fail=loadModel:tooBig`. */
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
  /** Downloads that are there at the start: `running`, `paused`, ..., or the kind of a failure. */
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
  failures: Map<string, ErrorKind>;
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
  const failures = new Map<string, ErrorKind>();
  for (const each of params.getAll('fail')) {
    const [call = '', kind = 'internal'] = each.split(':');
    failures.set(call, kind as ErrorKind);
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
