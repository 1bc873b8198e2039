import type { HardwareInfo, ModelEntry, PlanView } from '$lib/backend';
import { bytes, number } from '$lib/format';
import { i18n, t } from '$lib/i18n/index.svelte';

/** Where a loaded model computes and where its experts are: always on the screen. */
export function splitText(plan: PlanView): string {
  const onDisk = plan.totalExperts - plan.expertsInRam - Math.round(plan.expertsPerLayerOnGpu * plan.nLayers);
  if (plan.device === 'gpu') {
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

export interface Badge {
  text: string;
  tone: '' | 'warn' | 'bad';
}

/** How well a model fits this machine, in a few words. */
export function fitBadge(entry: ModelEntry, plan: PlanView | null): Badge | null {
  if (entry.problem !== null) return { text: t('fit.broken'), tone: 'bad' };
  if (plan === null) return null;
  if (plan.fit === 'tooBig') return { text: t('fit.tooBig'), tone: 'bad' };
  if (entry.kind === 'demo') return { text: t('fit.demo'), tone: '' };
  const onGpu = number(plan.expertsPerLayerOnGpu, i18n.locale, 1, 0);
  if (plan.fit === 'tight') return { text: t('fit.tight'), tone: 'warn' };
  return { text: plan.device === 'gpu' ? t('fit.gpu', { onGpu }) : t('fit.cpu'), tone: '' };
}

/** The program words it in English, always the same way. */
export function quantizationText(quantization: string): string {
  const [, experts, attention] = /^(\d)-bit experts, (\d)-bit attention$/.exec(quantization) ?? [];
  return experts && attention ? t('models.quantization', { experts, attention }) : quantization;
}

export type ItemKind = 'trunk' | 'experts' | 'context' | 'buffers' | 'other';

const KINDS: Record<string, ItemKind> = { trunk: 'trunk', experts: 'experts', 'KV cache': 'context', 'working buffers': 'buffers' };

/** "experts (4 of 8 a layer)": what stands before the bracket says what it is. */
const headOf = (name: string): string => name.split(' (')[0] ?? name;

export const itemKind = (name: string): ItemKind => KINDS[headOf(name)] ?? 'other';

/** The engine names the parts of a plan in English; the names it is known to use are translated. */
export function itemName(name: string): string {
  const kind = itemKind(name);
  if (kind !== 'other') return t(`item.${kind}`);
  if (headOf(name) === 'program') return t('item.program');
  return name.startsWith('CUDA') ? t('item.cuda') : name;
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
