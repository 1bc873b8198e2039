import type { ApiError, PlanError } from '$lib/backend';
import { bytes, duration, number } from '$lib/format';
import { i18n, t, type Key } from '$lib/i18n/index.svelte';
import { foreignFault, importedName, inputFault, tokenizerFault } from '$lib/models/faults';
import { planErrorNext, planErrorText } from '$lib/models/plan_words';

/** What a person reads of a failure. */
export interface ErrorWords {
  title: string;
  /** What happened, with names and numbers. */
  text: string | null;
  /** What the system, a driver or a parser says, in English in every window. */
  detail: string | null;
  /** What to do next. */
  next: string;
}

export type ErrorKind = ApiError['kind'];

/** What a call rejected with, whatever it was. */
export function asApiError(thrown: unknown): ApiError {
  if (isApiError(thrown)) return thrown;
  return { kind: 'internal', detail: thrown instanceof Error ? thrown.message : String(thrown) };
}

/** The failure that is kept with an answer: data, or the sentence that versions before wrote down. */
export function keptError(kept: string | null): ApiError {
  try {
    const read: unknown = JSON.parse(kept ?? '');
    if (isApiError(read)) return read;
  } catch {
    // A sentence.
  }
  return { kind: 'computation', detail: kept ?? '' };
}

const isApiError = (value: unknown): value is ApiError =>
  typeof value === 'object' && value !== null && 'kind' in value && Object.hasOwn(WORDS, String(value.kind));

type GroupOf<K> = K extends `error.${infer Group}` ? Group : never;
type Group = GroupOf<Key>;

/** The title and advice of a group of failures, with what is known of this one. */
const say = (group: Group, own: Partial<Omit<ErrorWords, 'title'>> = {}): ErrorWords => ({
  title: t(`error.${group}`),
  text: null,
  detail: null,
  ...own,
  next: own.next ?? t(`errorNext.${group}`)
});

const planWords = (error: PlanError) => ({ text: planErrorText(error), next: planErrorNext(error) });

const count = (value: number) => number(value, i18n.locale);
const size = (value: number) => bytes(value, i18n.locale);

/** As the settings name the engine's sampling parameters. */
const PARAMETERS: Record<string, Key> = {
  temperature: 'sampling.temperature',
  top_p: 'sampling.topP',
  min_p: 'sampling.minP',
  repetition_penalty: 'sampling.repetitionPenalty'
};

const WORDS: { [K in ErrorKind]: (error: Extract<ApiError, { kind: K }>) => ErrorWords } = {
  notAModel: ({ path, detail }) => say('checkpoint', { text: t('errorText.notAModel', { path }), detail, next: t('errorNext.notAModel') }),
  modelFileMissing: ({ path }) => say('checkpoint', { text: t('errorText.modelFileMissing', { path }) }),
  modelFileUnreadable: ({ path, detail }) =>
    say('checkpoint', { text: t('errorText.modelFileUnreadable', { path }), detail, next: t('errorNext.modelFileUnreadable') }),
  modelChanged: ({ path }) => say('checkpoint', { text: t('errorText.modelChanged', { path }), next: t('errorNext.modelChanged') }),
  checkpoint: ({ detail }) => say('checkpoint', { detail }),
  unsupported: ({ detail }) => say('foreign', { text: t('errorText.unsupported'), detail, next: t('errorNext.unsupported') }),
  plan: ({ detail }) => say('memory', { detail }),
  tooFewSlots: ({ slots, needed }) => say('memory', { text: t('errorText.tooFewSlots', { slots, needed }), next: t('errorNext.raiseRam') }),
  noTokenizer: ({ dir }) => say('tokenizer', { text: t('errorText.noTokenizer', { dir }) }),
  tokenizer: ({ detail }) => say('tokenizer', { detail }),
  tokenizerMismatch: ({ tokenizer, model }) =>
    say('tokenizer', { text: t('errorText.tokenizerMismatch', { tokenizer: count(tokenizer), model: count(model) }) }),
  emptyConversation: () => say('prompt', { text: t('errorText.emptyConversation') }),
  messageOrder: ({ position }) => say('prompt', { text: t('errorText.messageOrder', { position }) }),
  templateBroken: ({ path, detail }) =>
    say('prompt', { text: t('errorText.templateBroken', { path }).trim(), detail, next: t('errorNext.templateBroken') }),
  templateRefused: ({ path, detail }) => say('prompt', { text: t('errorText.templateRefused', { path }), detail }),
  cannotContinue: () => say('prompt', { text: t('errorText.cannotContinue'), next: t('errorNext.cannotContinue') }),
  unknownToken: ({ token, vocabSize }) => say('prompt', { text: t('errorText.unknownToken', { token, count: count(vocabSize) }) }),
  prompt: ({ detail }) => say('prompt', { detail }),
  samplingRange: ({ name, value }) => {
    const key = PARAMETERS[name];
    return say('sampling', {
      text: t('errorText.samplingRange', { name: key ? t(key) : name, value: value === null ? 'NaN' : count(value) })
    });
  },
  badOutput: () => say('engine', { text: t('errorText.badOutput'), next: t('errorNext.badOutput') }),
  expertUnavailable: ({ layer, expert, detail }) =>
    say('engine', { text: t('errorText.expertUnavailable', { layer, expert }), detail, next: t('errorNext.modelFileUnreadable') }),
  noExpertSlot: ({ slots }) => say('memory', { text: t('errorText.noExpertSlot', { slots }), next: t('errorNext.raiseRam') }),
  kernels: ({ detail }) => say('engine', { detail }),
  computation: ({ detail }) => say('engine', { detail }),
  gpuFailed: ({ detail }) => say('gpu', { detail }),
  contextFull: ({ limit, needed, enough }) =>
    say('contextFull', {
      text: t('errorText.contextFull', { limit: count(limit), needed: count(needed) }),
      next: enough === null ? t('errorNext.contextTooLong') : t('errorNext.contextFull', { tokens: count(enough) })
    }),
  cancelled: () => say('cancelled'),
  unloaded: () => say('notLoaded'),

  badSizes: (error) => say('foreign', planWords(error)),
  outOfRange: (error) => say('invalid', planWords(error)),
  contradiction: (error) => say('invalid', planWords(error)),
  noGpu: (error) => say('noGpu', planWords(error)),
  tooBig: (error) => say('memory', planWords(error)),

  storeDamaged: ({ path, detail }) => say('storeDamaged', { text: path, detail }),
  storeLocked: ({ path }) => say('storeLocked', { text: path }),
  storeNewer: ({ path, found, known }) => say('storeNewer', { text: t('errorText.storeNewer', { path, found, known }) }),
  storeDiskFull: ({ path }) => say('diskFull', { text: path }),
  storeFile: ({ path, detail }) => say('io', { text: path, detail }),
  notStored: ({ what }) => say('notFound', { text: t(`errorText.notStored.${what}`) }),
  notAnAnswer: () => say('invalid', { text: t('errorText.notAnAnswer'), next: t('errorNext.chooseAnother') }),
  stillBeingWritten: () => say('invalid', { text: t('errorText.stillBeingWritten'), next: t('errorNext.busy') }),
  answerEnded: () => say('invalid', { text: t('errorText.answerEnded'), next: t('errorNext.internal') }),
  backupCancelled: () => say('cancelled', { text: t('errorText.backupCancelled') }),
  noSuchPage: () => say('invalid', { text: t('errorText.noSuchPage'), next: t('errorNext.internal') }),
  importTooLarge: ({ what, found, limit }) => {
    const show = what === 'chats' || what === 'messages' ? count : size;
    return say('import', { text: t(`errorText.tooLarge.${what}`, { found: show(found), limit: show(limit) }) });
  },
  importNewer: ({ found, known }) => say('import', { text: t('errorText.importNewer', { found, known }), next: t('errorNext.storeNewer') }),
  importForeign: ({ what }) => say('import', { text: importedName(what) }),
  importNotOurs: ({ detail }) => say('import', { text: t('errorText.importNotOurs'), detail }),
  importDamaged: ({ line, column, detail }) => say('import', { text: t('errorText.importDamaged', { line, column }), detail }),
  importInconsistent: ({ number, title, detail }) => say('import', { text: t('errorText.importInconsistent', { number, title }), detail }),
  database: ({ detail }) => say('internal', { detail }),

  gated: ({ repo, withToken }) =>
    say('gated', {
      text: t('errorText.gated', { repo }),
      next: withToken ? t('errorNext.gatedWithToken', { repo }) : t('errorNext.gated', { repo })
    }),
  missing: ({ what }) => say('missing', { text: t('errorText.missing', { what }) }),
  withdrawn: ({ repo, instead }) =>
    say('missing', { text: t('errorText.withdrawn', { repo }), next: t('errorNext.withdrawn', { instead }) }),
  token: ({ detail }) => say('token', { detail }),
  network: ({ host, detail }) => say('network', { text: t('errorText.network', { host }), detail }),
  tls: ({ host, detail }) => say('tls', { text: t('errorText.tls', { host }), detail }),
  diskFull: ({ path, neededBytes, freeBytes }) =>
    neededBytes === 0
      ? say('diskFull', { text: path })
      : say('diskFull', {
          text: t('errorText.diskFull', { path, needed: size(neededBytes), free: size(freeBytes) }),
          next: t('errorNext.diskFullBy', { size: size(Math.max(neededBytes - freeBytes, 1e6)) })
        }),
  checksum: ({ file, expected, found }) =>
    say('checksum', { text: t('errorText.checksum', { file, expected: expected.slice(0, 12), found: found.slice(0, 12) }) }),
  rateLimited: ({ host, retryAfterS }) =>
    say('rateLimited', {
      text:
        retryAfterS === null
          ? t('errorText.rateLimited', { host })
          : t('errorText.rateLimitedFor', { host, time: duration(retryAfterS, i18n.locale) })
    }),
  hub: ({ host, detail }) => say('hub', { text: t('errorText.hub', { host }), detail }),
  foreign: ({ what, fault }) => {
    const { text, detail } = foreignFault(fault);
    return say('foreign', { text: text === null ? what : `${what}: ${text}`, detail });
  },
  noTokenizerFound: ({ repo, tried, gated }) => {
    const faults = tried.map((one) => ({ ...tokenizerFault(one.fault), repo: one.repo }));
    const list = faults.map((one) => t('errorText.triedTokenizer', { repo: one.repo, why: one.text }));
    const details = faults.flatMap((one) => (one.detail === null ? [] : [`${one.repo}: ${one.detail}`]));
    return say('tokenizer', {
      text: t('errorText.noTokenizerFound', { repo, tried: list.join('; ') }),
      detail: details.join('; ') || null,
      next: gated ? t('errorNext.gatedTokenizer') : t('errorNext.noTokenizerFound')
    });
  },
  inUse: ({ what, by }) => say('inUse', { text: t(`errorText.inUse.${by}`, { what: what ?? t('folder.title') }) }),
  notFound: ({ what, name }) => say('notFound', { text: t(`errorText.notFound.${what}`, { name }) }),
  ambiguous: ({ name, candidates }) =>
    say('invalid', {
      text: t('errorText.ambiguous', { name, one: candidates[0], other: candidates[1] }),
      next: t('errorNext.ambiguous')
    }),
  invalid: ({ input }) => say('invalid', inputFault(input)),
  modelsFile: ({ path, detail }) => say('io', { text: path, detail }),

  notLoaded: () => say('notLoaded'),
  unknownModel: ({ id }) =>
    say('notFound', { text: t('errorText.notFound.installedModel', { name: id }), next: t('errorNext.chooseModel') }),
  chatBusy: () => say('busy', { text: t('errorText.chatBusy') }),
  answerBusy: () => say('busy'),
  emptyMessage: () => say('invalid', { text: t('errorText.emptyMessage'), next: t('composer.empty') }),
  wrongMessage: () => say('invalid', { text: t('errorText.wrongMessage'), next: t('errorNext.chooseAnother') }),
  folderNotPicked: ({ path }) => say('invalid', { text: t('errorText.folderNotPicked', { path }), next: t('errorNext.folderNotPicked') }),
  fileNotDropped: ({ path }) => say('invalid', { text: t('errorText.fileNotDropped', { path }), next: t('errorNext.fileNotDropped') }),
  linkRefused: ({ fault }) => say('linkRefused', { text: t(`errorText.link.${fault}`) }),
  notABackup: ({ path }) => say('invalid', { text: t('errorText.notABackup', { path }), next: t('errorNext.notABackup') }),
  restoring: () => say('busy', { text: t('errorText.restoring'), next: t('errorNext.restoring') }),
  notOpened: ({ what, detail }) => say('notOpened', { text: what, detail }),
  folderNotCreated: ({ path, detail }) => say('io', { text: path, detail }),
  demoUnusable: ({ detail }) => say('checkpoint', { text: t('errorText.demoUnusable'), detail, next: t('errorNext.diskFull') }),
  internal: ({ detail }) => say('internal', { detail })
};

/** A failure in the language of the window. */
export function errorWords(error: ApiError): ErrorWords {
  // Each function takes the kind that it is under.
  const words = WORDS[error.kind] as (error: ApiError) => ErrorWords;
  return words(error);
}

/** Its title, as it is announced. */
export const errorTitle = (error: ApiError): string => errorWords(error).title;

/** Whether loading it anyway may help. */
export const isOfMemory = ({ kind }: ApiError): boolean => kind === 'tooBig' || kind === 'plan';

/** Whether another access token may help. */
export const isOfToken = ({ kind }: ApiError): boolean => kind === 'gated' || kind === 'token' || kind === 'noTokenizerFound';
