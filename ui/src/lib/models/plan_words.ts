import type {
  GpuOption,
  GpuProblem,
  KernelLimit,
  Loss,
  Memory,
  MemoryUse,
  NoGpu,
  OffloadPreset,
  PlanError,
  PlanReason,
  PlanWarning,
  RangedOption,
  Remedy,
  Shortage
} from '$lib/backend';
import { bytes, number } from '$lib/format';
import { i18n, t } from '$lib/i18n/index.svelte';

/** A text for each kind of a union. */
type Words<T extends { kind: string }> = { [Kind in T['kind']]: (value: Extract<T, { kind: Kind }>) => string };

function say<T extends { kind: string }>(words: Words<T>, value: T): string {
  const text: (value: never) => string = words[value.kind as T['kind']];
  return text(value as never);
}

const size = (value: number) => bytes(value, i18n.locale);
const count = (value: number) => number(value, i18n.locale);
const average = (value: number) => number(value, i18n.locale, 1, 0);

/** Rounded up, so that what is shown is enough. */
function sizeAtLeast(value: number): string {
  const step = value >= 1e9 ? 1e8 : 1e6;
  return size(Math.ceil(value / step) * step);
}

const MEMORY: Record<Memory, () => string> = { vram: () => t('plan.vram'), ram: () => t('memory.ram') };
const memoryName = (memory: Memory) => MEMORY[memory]();

const PRESETS: Record<OffloadPreset, () => string> = {
  auto: () => t('common.auto'),
  gpu16: () => '16\u00a0GB',
  gpu12: () => '12\u00a0GB',
  cpu: () => t('offload.cpu')
};
const presetName = (preset: OffloadPreset) => PRESETS[preset]();

const KERNEL_LIMITS: Words<KernelLimit> = {
  expertsPerToken: ({ has, most }) => t('kernelLimit.expertsPerToken', { has, most }),
  expertsPerLayer: ({ has, most }) => t('kernelLimit.expertsPerLayer', { has, most }),
  headDim: ({ has, most }) => t('kernelLimit.headDim', { has, most }),
  headsPerKeyHead: ({ has, most }) => t('kernelLimit.headsPerKeyHead', { has, most }),
  oddHeadDim: ({ has }) => t('kernelLimit.oddHeadDim', { has })
};

export const kernelLimitText = (limit: KernelLimit): string => say(KERNEL_LIMITS, limit);

const GPU_PROBLEMS: Words<GpuProblem> = {
  tooOld: ({ capability, needed }) => t('gpuProblem.tooOld', { capability, needed }),
  unreadable: ({ detail }) => t('gpuProblem.unreadable', { detail }),
  noCuda: ({ detail }) => t('gpuProblem.noCuda', { detail }),
  mig: () => t('gpuProblem.mig'),
  hidden: ({ variable }) => t('gpuProblem.hidden', { variable }),
  notListed: () => t('gpuProblem.notListed'),
  noMemoryFigure: ({ detail }) => t('gpuProblem.noMemoryFigure', { detail }),
  driverTooOld: ({ supported, needed, minDriver }) => t('gpuProblem.driverTooOld', { supported, needed, driver: String(minDriver) }),
  noRoom: () => t('gpuProblem.noRoom'),
  failed: ({ detail }) => t('gpuProblem.failed', { detail })
};

/** Why a GPU cannot be used, in a sentence or two. */
export const gpuProblemText = (problem: GpuProblem): string => say(GPU_PROBLEMS, problem);

const NO_GPU: Words<NoGpu> = {
  noDriver: ({ library, minDriver }) => t('noGpu.noDriver', { library, driver: String(minDriver) }),
  badLibrary: ({ detail, minDriver }) => t('noGpu.badLibrary', { detail, driver: String(minDriver) }),
  macos: () => t('noGpu.macos'),
  driverNotLoaded: () => t('noGpu.driverNotLoaded'),
  driverMismatch: () => t('noGpu.driverMismatch'),
  driverTooOld: ({ version, minDriver }) => t('noGpu.driverTooOld', { version, driver: String(minDriver) }),
  noDevice: ({ version }) => t('noGpu.noDevice', { version }),
  driverFailed: ({ call, detail }) => t('noGpu.driverFailed', { call, detail }),
  unusable: ({ gpus }) => gpus.map(({ name, problem }) => `${name}: ${gpuProblemText(problem)}`).join(' '),
  noCuda: ({ gpu, freeBytes }) => t('noGpu.noCuda', { gpu, free: size(freeBytes) }),
  unsupported: () => t('noGpu.unsupported'),
  kernelLimit: ({ gpu, limit }) => t('noGpu.kernelLimit', { gpu, limit: kernelLimitText(limit) })
};

/** Why no GPU is used, in a sentence or two. */
export const noGpuText = (why: NoGpu): string => say(NO_GPU, why);

const REASONS: Words<PlanReason> = {
  cpuAsked: () => t('reason.cpuAsked'),
  noGpu: ({ why }) => t('reason.noGpu', { why: noGpuText(why) }),
  gpuTooSmall: ({ gpu, neededBytes, limitBytes }) => t('reason.gpuTooSmall', { gpu, needed: size(neededBytes), limit: size(limitBytes) }),
  gpu: ({ index, name, freeBytes, totalBytes }) =>
    t('reason.gpu', { index: String(index), name, free: size(freeBytes), total: size(totalBytes) }),
  presetOverridden: ({ askedPerLayer, presetPerLayer }) =>
    t('reason.presetOverridden', { asked: count(askedPerLayer), preset: count(presetPerLayer) }),
  gpuExpertsAsked: ({ experts, total, perLayer }) =>
    t('reason.gpuExpertsAsked', { experts: count(experts), total: count(total), perLayer: average(perLayer) }),
  gpuExpertsAll: ({ total }) => t('reason.gpuExpertsAll', { total: count(total) }),
  gpuExpertsRest: ({ experts, total, perLayer, limitBytes }) =>
    t('reason.gpuExpertsRest', { experts: count(experts), total: count(total), perLayer: average(perLayer), limit: size(limitBytes) }),
  vramReserve: ({ bytes }) => t('reason.vramReserve', { size: size(bytes) }),
  ramReserve: ({ bytes, availableBytes }) => t('reason.ramReserve', { size: size(bytes), available: size(availableBytes) }),
  allInVramAndRam: ({ total, onGpu, inRam, inRamBytes }) =>
    t('reason.allInVramAndRam', {
      total: count(total),
      onGpu: count(onGpu),
      inRam: count(inRam),
      size: size(inRamBytes),
      both: count(Math.max(0, onGpu + inRam - total))
    }),
  allInRam: ({ total, bytes, forGpu }) =>
    t(forGpu ? 'reason.allInRamForGpu' : 'reason.allInRam', { total: count(total), size: size(bytes) }),
  someInRam: ({ experts, bytes, total, totalBytes }) =>
    t('reason.someInRam', { experts: count(experts), size: size(bytes), total: count(total), totalSize: size(totalBytes) }),
  pinLimit: ({ pinned, inRam, limitBytes }) =>
    t('reason.pinLimit', { pinned: count(pinned), inRam: count(inRam), limit: size(limitBytes) }),
  contextAsked: ({ tokens, kvBytes }) => t('reason.contextAsked', { tokens: count(tokens), size: size(kvBytes) }),
  contextDefault: ({ tokens, kvBytes }) => t('reason.contextDefault', { tokens: count(tokens), size: size(kvBytes) }),
  contextGrown: ({ tokens, kvBytes, memory }) =>
    t('reason.contextGrown', { tokens: count(tokens), size: size(kvBytes), memory: memoryName(memory) }),
  contextCut: ({ tokens, kvBytes, defaultTokens, memory, limitBytes }) =>
    t('reason.contextCut', {
      tokens: count(tokens),
      size: size(kvBytes),
      usual: count(defaultTokens),
      memory: memoryName(memory),
      limit: size(limitBytes)
    })
};

/** Why a plan is as it is, in a sentence. */
export const reasonText = (reason: PlanReason): string => say(REASONS, reason);

const GPU_OPTIONS: Words<GpuOption> = {
  preset: ({ preset }) => `${t('offload.preset')}: ${presetName(preset)}`,
  vramBudget: () => t('offload.vram'),
  expertsOnGpu: ({ perLayer }) => `${t('offload.experts')}: ${count(perLayer)}`,
  fetchMisses: () => `${t('offload.misses')}: ${t('offload.fetch')}`
};

/** A setting that only concerns a GPU, by the name it has in the settings. */
export const gpuOptionText = (option: GpuOption): string => say(GPU_OPTIONS, option);

const LOSSES: Words<Loss> = {
  gpu: () => t('loss.gpu'),
  experts: ({ held, planned }) => t('loss.experts', { held: count(held), planned: count(planned) }),
  context: ({ tokens, planned }) => t('loss.context', { tokens: count(tokens), planned: count(planned) })
};

/** What was given up, in the middle of a sentence. */
export const lossText = (loss: Loss): string => say(LOSSES, loss);

const WARNINGS: Words<PlanWarning> = {
  vramBudgetOverFree: ({ budgetBytes, freeBytes, reserveBytes }) => {
    const values = { budget: size(budgetBytes), free: size(freeBytes) };
    return reserveBytes > 0
      ? t('warning.vramBudgetOverFreeShared', { ...values, reserve: size(reserveBytes) })
      : t('warning.vramBudgetOverFree', values);
  },
  ramBudgetOverFree: ({ askedBytes, availableBytes }) =>
    t('warning.ramBudgetOverFree', { asked: size(askedBytes), available: size(availableBytes) }),
  readsFromDisk: () => t('warning.readsFromDisk'),
  noEffectOnCpu: ({ options }) => t('warning.noEffectOnCpu', { options: options.map(gpuOptionText).join(', ') }),
  tooBig: (shortage) => [t('warning.tooBig'), shortageText(shortage), remediesText(shortage.remedies)].filter(Boolean).join(' '),
  lessVram: ({ contextBytes, expectedContextBytes, freeBytes, losses }) => {
    const values = { free: size(freeBytes), losses: losses.map(lossText).join(', ') };
    return contextBytes > expectedContextBytes
      ? t('warning.lessVramForDriver', { ...values, context: size(contextBytes), expected: size(expectedContextBytes) })
      : t('warning.lessVram', values);
  },
  gpuPassedOver: ({ name, problem }) => t('warning.gpuPassedOver', { name, problem: gpuProblemText(problem) }),
  gpuFailed: ({ problem }) => t('warning.gpuFailed', { problem: gpuProblemText(problem) }),
  gpuLost: () => t('warning.gpuLost'),
  unpinned: ({ experts }) => t('warning.unpinned', { count: experts }),
  generationConfigIgnored: () => t('warning.generationConfigIgnored'),
  bosFromConfig: ({ token }) => t('warning.bosFromConfig', { token: String(token) })
};

/** What to know about a plan, in a sentence or two. */
export const warningText = (warning: PlanWarning): string => say(WARNINGS, warning);

const REMEDIES: Words<Remedy> = {
  raiseVram: ({ bytes }) => t('remedy.raiseVram', { size: sizeAtLeast(bytes) }),
  raiseRam: ({ bytes }) => t('remedy.raiseRam', { size: sizeAtLeast(bytes) }),
  useRamReserve: ({ bytes }) => t('remedy.useRamReserve', { size: sizeAtLeast(bytes) }),
  lowerCtx: ({ tokens }) => t('remedy.lowerCtx', { tokens: count(tokens) }),
  lowerExpertsOnGpu: ({ perLayer }) => t('remedy.lowerExpertsOnGpu', { perLayer: count(perLayer) }),
  closeGpuPrograms: ({ bytes }) => t('remedy.closeGpuPrograms', { size: sizeAtLeast(bytes) }),
  useCpu: () => t('remedy.useCpu'),
  globalEviction: () => t('remedy.globalEviction'),
  closePrograms: ({ bytes }) => t('remedy.closePrograms', { size: sizeAtLeast(bytes) }),
  raiseContainerLimit: ({ bytes }) => t('remedy.raiseContainerLimit', { size: sizeAtLeast(bytes) }),
  smallerModel: ({ totalBytes }) => t('remedy.smallerModel', { total: size(totalBytes) })
};

/** What would help, as one of several ways. */
export const remedyText = (remedy: Remedy): string => say(REMEDIES, remedy);

const sentence = (ways: string[]): string => {
  const text = new Intl.ListFormat(i18n.locale, { type: 'disjunction' }).format(ways);
  return text === '' ? '' : `${text.charAt(0).toLocaleUpperCase(i18n.locale)}${text.slice(1)}.`;
};

/** What would help, in a sentence; empty where nothing would. */
export const remediesText = (remedies: Remedy[]): string => sentence(remedies.map(remedyText));

/** What is short, and by how much, in a sentence. */
export const shortageText = ({ memory, neededBytes, limitBytes }: Shortage): string =>
  t('plan.shortage', {
    needed: size(neededBytes),
    memory: memoryName(memory),
    short: sizeAtLeast(neededBytes - limitBytes),
    limit: size(limitBytes)
  });

const RANGED: Record<RangedOption, () => string> = {
  ctx: () => t('offload.context'),
  expertsOnGpu: () => t('offload.experts'),
  prefetch: () => t('offload.prefetch')
};

const ERRORS: Words<PlanError> = {
  badSizes: ({ field, value }) => t('planError.badSizes', { field, value: String(value) }),
  outOfRange: ({ option, value, min, max }) =>
    t('planError.outOfRange', { option: RANGED[option](), value: count(value), min: count(min), max: count(max) }),
  contradiction: ({ preset }) => t('planError.contradiction', { preset: presetName(preset) }),
  noGpu: ({ why }) => t('planError.noGpu', { why: noGpuText(why) }),
  tooBig: shortageText
};

/** Why there is no plan, in a sentence or two. */
export const planErrorText = (error: PlanError): string => say(ERRORS, error);

const NEXT: Words<PlanError> = {
  badSizes: () => t('errorNext.foreign'),
  outOfRange: () => t('errorNext.invalid'),
  contradiction: () => t('planNext.preset'),
  noGpu: () => t('planNext.preset'),
  tooBig: ({ remedies }) => sentence([...remedies.map(remedyText), t('remedy.loadAnyway')])
};

/** What to do about it, in a sentence. */
export const planErrorNext = (error: PlanError): string => say(NEXT, error);

export type ItemKind = 'trunk' | 'experts' | 'context' | 'buffers' | 'other';

const ITEM_KINDS: Record<MemoryUse['kind'], ItemKind> = {
  trunk: 'trunk',
  trunkWithoutEmbeddings: 'trunk',
  embeddings: 'other',
  kvCache: 'context',
  workingBuffers: 'buffers',
  fetchBuffers: 'buffers',
  transitBuffers: 'buffers',
  someExperts: 'experts',
  expertsInPlace: 'experts',
  expertsPinned: 'experts',
  cudaContext: 'other',
  cudaDriver: 'other',
  program: 'other'
};

/** What kinds of memory look alike. */
export const itemKind = (what: MemoryUse): ItemKind => ITEM_KINDS[what.kind];

const ITEMS: Words<MemoryUse> = {
  trunk: () => t('item.trunk'),
  trunkWithoutEmbeddings: () => t('item.trunk'),
  embeddings: () => t('item.embeddings'),
  kvCache: () => t('item.context'),
  workingBuffers: () => t('item.buffers'),
  fetchBuffers: () => t('item.fetchBuffers'),
  transitBuffers: () => t('item.transitBuffers'),
  someExperts: () => t('item.experts'),
  expertsInPlace: () => t('item.experts'),
  expertsPinned: () => t('item.experts'),
  cudaContext: () => t('item.cuda'),
  cudaDriver: () => t('item.cuda'),
  program: () => t('item.program')
};

/** What takes memory, in a word or two. */
export const itemName = (what: MemoryUse): string => say(ITEMS, what);
