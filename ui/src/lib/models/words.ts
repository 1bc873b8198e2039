import type { Download, HardwareInfo, Health, ModelEntry, Offer, PlanView, Quantization, VerifyReport, WeightFormat } from '$lib/backend';
import { bytes, duration, number } from '$lib/format';
import { i18n, t, type Key } from '$lib/i18n/index.svelte';

/** Where a loaded model computes and where its experts are: always on the screen. */
export function splitText(plan: PlanView): string {
  const onDisk = plan.totalExperts - plan.expertsInRam - Math.round(plan.expertsPerLayerOnGpu * plan.nLayers);
  if (plan.device.kind === 'cuda') {
    const onGpu = number(plan.expertsPerLayerOnGpu, i18n.locale, 1, 0);
    if (plan.expertsPerLayerOnGpu >= plan.nExperts) return t('split.gpuAll', { all: plan.nExperts });
    const elsewhere = number(plan.nExperts - plan.expertsPerLayerOnGpu, i18n.locale, 1, 0);
    return onDisk > 0
      ? t('split.gpuDisk', { onGpu, all: plan.nExperts, inRam: plan.expertsInRam, onDisk })
      : t('split.gpu', { onGpu, all: plan.nExperts, elsewhere });
  }
  return plan.expertsInRam >= plan.totalExperts
    ? t('split.cpuAll', { all: plan.totalExperts })
    : t('split.cpu', { inRam: plan.expertsInRam, all: plan.totalExperts });
}

/** What a plan computes on. */
export const deviceName = ({ device }: PlanView): string => (device.kind === 'cuda' ? device.name : t('offload.cpu'));

export interface Badge {
  text: string;
  tone: '' | 'warn' | 'bad';
}

/** How well a model fits this machine, in a few words. */
export function fitBadge(entry: ModelEntry, plan: PlanView | null): Badge | null {
  if (plan === null) return null;
  if (plan.fit === 'tooBig') return { text: t('fit.tooBig'), tone: 'bad' };
  if (entry.kind === 'demo') return { text: t('fit.demo'), tone: '' };
  const onGpu = number(plan.expertsPerLayerOnGpu, i18n.locale, 1, 0);
  if (plan.fit === 'tight') return { text: t('fit.tight'), tone: 'warn' };
  return { text: plan.device.kind === 'cuda' ? t('fit.gpu', { onGpu }) : t('fit.cpu'), tone: '' };
}

/** The same before it is here, when only the sizes are known. */
export function offerBadge({ fit }: Offer): Badge | null {
  switch (fit.badge) {
    case 'fits':
      return { text: t('fit.fits'), tone: '' };
    case 'tight':
      return { text: t('fit.tight'), tone: 'warn' };
    case 'tooBig':
      return { text: t('fit.tooBig'), tone: 'bad' };
    default:
      return null;
  }
}

/** Where its experts would go; null where there is no plan. */
export function offerPlan({ fit }: Offer): string | null {
  const all = fit.totalExperts;
  if (fit.badge !== 'fits' && fit.badge !== 'tight') return null;
  if (fit.expertsOnGpu !== null) return t('offers.planGpu', { onGpu: number(fit.expertsOnGpu, i18n.locale, 1, 0) });
  return fit.expertsInRam >= all ? t('offers.planRam', { all }) : t('offers.planDisk', { inRam: fit.expertsInRam, all });
}

/** What it is beside the version that comes nearest to it; null where there is none. */
export function comparedText({ compared }: Offer): string | null {
  if (compared === null) return null;
  const values = { other: compared.to, size: bytes(compared.bytes, i18n.locale) };
  return compared.isBetter ? t('offers.better', values) : t('offers.lighter', values);
}

/** Where its tokenizer is looked for, in order. */
export function tokenizerText({ repo, tokenizerFrom: [from, ...others] }: Offer): string | null {
  if (from === undefined) return null;
  if (from === repo) return t('offers.tokenizerOwn');
  return others.length === 0 ? t('offers.tokenizer', { from }) : t('offers.tokenizerElse', { from, others: others.join(', ') });
}

/** The format that most bytes of a part are in, in short: `2-bit`, `Q4_K`. */
function shortFormat([format]: readonly WeightFormat[]): string | null {
  if (!format) return null;
  return format.kind === 'hqq' ? t('quant.bits', { bits: format.bits }) : format.name;
}

/** In short: "2-bit experts, 4-bit attention". */
export function quantizationText({ experts, attention }: Quantization): string {
  const [ofExperts, ofAttention] = [shortFormat(experts), shortFormat(attention)];
  return ofExperts === null || ofAttention === null ? '' : t('models.quantization', { experts: ofExperts, attention: ofAttention });
}

function longFormat(format: WeightFormat): string {
  if (format.kind === 'gguf') {
    const { name, bits } = format;
    return t('quant.gguf', { name, bits: number(bits, i18n.locale, 2), size: bytes(format.bytes, i18n.locale) });
  }
  const { bits, groupSize: group, scaleGroupSize: scales } = format;
  if (group === null) return t('quant.hqq', { bits });
  return scales === null ? t('quant.hqqGroups', { bits, group }) : t('quant.hqqScales', { bits, group, scales });
}

/** Every format, with groups and scales. */
export function formatText({ experts, attention }: Quantization): string {
  const list = (formats: readonly WeightFormat[]) => formats.map(longFormat).join('; ');
  return t('quant.details', { experts: list(experts), attention: list(attention) });
}

/** What the catalogue says in English of the models that are known here. */
const KNOWN: Record<string, Key> = {
  'lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-demo': 'offers.instruct',
  'lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-hqq-4bit-3bit': 'offers.instruct3'
};

export function aboutText({ repo, about }: Offer): { text: string; lang: string | undefined } {
  const key = KNOWN[repo];
  return key ? { text: t(key), lang: undefined } : { text: about, lang: 'en' };
}

const LICENSES: Record<string, string> = {
  'apache-2.0': 'Apache 2.0',
  mit: 'MIT',
  'cc-by-4.0': 'CC BY 4.0',
  'cc-by-nc-4.0': 'CC BY-NC 4.0'
};

/** As a person writes it. */
export const licenseName = (license: string): string => LICENSES[license.toLowerCase()] ?? license;

/** What a download is doing, in a few words. */
export function downloadText({ state, bytesPerSec, secondsLeft }: Download): string {
  switch (state.kind) {
    case 'queued':
      return t('downloads.queued', { ahead: state.ahead });
    case 'stalled':
      return t('downloads.stalled', { time: duration(state.seconds, i18n.locale) });
    case 'retrying':
      return t('downloads.retrying', { time: duration(state.inSeconds, i18n.locale) });
    case 'paused':
      return state.reason === 'asked' ? t('downloads.paused') : t('downloads.interrupted');
    case 'running':
      return speedText(bytesPerSec, secondsLeft);
    default:
      return t(`downloads.${state.kind}`);
  }
}

export function speedText(bytesPerSec: number, secondsLeft: number | null): string {
  if (bytesPerSec <= 0) return t('downloads.running');
  const speed = `${bytes(bytesPerSec, i18n.locale)}/s`;
  return secondsLeft === null ? speed : t('downloads.left', { speed, time: duration(secondsLeft, i18n.locale) });
}

/** What a check that found nothing bad has shown. */
export function verifyText({ files, bytes: compared, unknown }: VerifyReport): string {
  if (files === 0) return t('verify.structure');
  const good = t('verify.good', { count: files, files: number(files, i18n.locale), size: bytes(compared, i18n.locale) });
  return unknown === 0 ? good : `${good} ${t('verify.unknown', { count: unknown })}`;
}

type Damaged = Extract<Health, { kind: 'damaged' }>;

/** What is wrong with a model, by its headers and sizes or by its last check; null where nothing is. */
export function damageOf(entry: ModelEntry, report: VerifyReport | undefined): Damaged | null {
  if (entry.health.kind === 'damaged') return entry.health;
  if (!report || report.bad.length === 0) return null;
  return { kind: 'damaged', damage: { kind: 'files' }, files: report.bad, canRepair: entry.kind === 'hub' };
}

export function machineText(hardware: HardwareInfo): string {
  const size = (value: number) => bytes(value, i18n.locale);
  const { gpu } = hardware;
  const first = gpu
    ? t('machine.gpu', { name: gpu.name, free: size(gpu.vramFreeBytes), total: size(gpu.vramTotalBytes) })
    : t('machine.noGpu');
  const ram = t('machine.ram', { free: size(hardware.ramFreeBytes), total: size(hardware.ramTotalBytes) });
  const disk = hardware.diskFreeBytes === null ? '' : t('machine.disk', { free: size(hardware.diskFreeBytes) });
  return [first, ram, disk].filter(Boolean).join(' ');
}

const SYSTEMS: Record<string, string> = { linux: 'Linux', macos: 'macOS', windows: 'Windows' };
const ARCHITECTURES: Record<string, string> = { x86_64: 'x86-64', aarch64: 'ARM64' };

/** "Linux (x86-64)", as people call it. */
export const systemText = (os: string, arch: string): string => `${SYSTEMS[os] ?? os} (${ARCHITECTURES[arch] ?? arch})`;
