import type {
  BadFile,
  EndpointFault,
  FileFault,
  Foreign,
  ForeignFault,
  InvalidInput,
  KeyringProblem,
  TokenizerFault,
  TokenNote
} from '$lib/backend';
import { bytes, number } from '$lib/format';
import { i18n, t } from '$lib/i18n/index.svelte';

/** Words of ours, and what the system, a driver or a parser says, in English in every window. */
export interface Said<Text extends string | null = string> {
  text: Text;
  detail: string | null;
}

const said = (text: string, detail: string | null = null): Said => ({ text, detail });

/** Why a repository or folder is no model that Octet runs; null where only `detail` says it. */
export function foreignFault(fault: ForeignFault): Said<string | null> {
  switch (fault.kind) {
    case 'noFile':
    case 'noIndexedFile':
      return said(t(`foreign.${fault.kind}`, { file: fault.file }));
    case 'noExpert':
      return said(t('foreign.noExpert', { layer: fault.layer, expert: fault.expert }));
    case 'fileTooLarge':
      return said(
        t('foreign.fileTooLarge', { file: fault.file, found: bytes(fault.found, i18n.locale), limit: bytes(fault.limit, i18n.locale) })
      );
    case 'refused':
      return { text: null, detail: fault.detail };
    default:
      return said(t(`foreign.${fault.kind}`));
  }
}

/** Why a repository gave no tokenizer; within a sentence. */
export function tokenizerFault(fault: TokenizerFault): Said {
  switch (fault.kind) {
    case 'wrongSize':
      return said(t('tried.wrongSize', { tokens: number(fault.tokens, i18n.locale), model: number(fault.model, i18n.locale) }));
    case 'unusable':
      return said(t('tried.unusable'), fault.detail);
    default:
      return said(t(`tried.${fault.kind}`));
  }
}

/** What was typed or chosen and cannot be, and what to do instead. */
export function inputFault(input: InvalidInput): Said & { next: string } {
  const say = (text: string, next: string, detail: string | null = null) => ({ text, next, detail });
  switch (input.kind) {
    case 'noHome':
      return say(t('input.noHome'), t('inputNext.noHome'));
    case 'repoName':
      return say(t(`input.repoName.${input.fault}`, { name: input.name }), t('inputNext.repoName'));
    case 'endpoint':
      return endpointFault(input.fault, input.inEnvironment);
    case 'networkSettings':
      return say(t('input.networkSettings'), t('inputNext.networkSettings'), input.detail);
    case 'token':
      return say(t('input.token'), t('inputNext.token'));
    case 'hash':
      return say(t('input.hash', { hash: input.hash }), t('errorNext.hub'));
    case 'notRepairable':
      return say(t('input.notRepairable', { model: input.model }), t('inputNext.notRepairable'));
    case 'folderInside':
      return say(t('input.folderInside'), t('inputNext.folder'));
    case 'folderHas':
      return say(t('input.folderHas', { repo: input.repo }), t('inputNext.folderHas'));
  }
}

function endpointFault(fault: EndpointFault, inEnvironment: boolean): Said & { next: string } {
  const text = t(`input.endpoint.${fault.kind}`);
  return {
    text: inEnvironment ? `HF_ENDPOINT: ${text}` : text,
    detail: fault.kind === 'noAddress' ? fault.detail : null,
    next: t(fault.kind === 'hasPassword' ? 'inputNext.endpointPassword' : 'inputNext.endpoint')
  };
}

/** What a file is that Octet did not export; a sentence. */
export const importedName = (what: Foreign): string => t(`imported.${what}`);

/** What is wrong with a file of a model; after its name. */
export function fileFault(fault: FileFault): Said {
  switch (fault.kind) {
    case 'size':
      return said(t('file.size', { found: number(fault.found, i18n.locale), expected: number(fault.expected, i18n.locale) }));
    case 'content':
      return said(t('file.content', { found: fault.found, expected: fault.expected }));
    case 'unreadable':
    case 'refused':
      return said(t(`file.${fault.kind}`), fault.detail);
    default:
      return said(t(`file.${fault.kind}`));
  }
}

/** A file of a model with what is wrong with it. */
export function badFile({ file, fault }: BadFile): Said {
  const { text, detail } = fileFault(fault);
  return { text: `${file}: ${text}`, detail };
}

/** Why the access token is not in the keyring. */
export function tokenNote({ kind, problem }: TokenNote): Said {
  const { text, detail } = keyringProblem(problem);
  return { text: t(`tokenNote.${kind}`, { why: text }), detail };
}

function keyringProblem(problem: KeyringProblem): Said {
  return said(t(`keyring.${problem.kind}`), problem.kind === 'failed' ? problem.detail : null);
}
