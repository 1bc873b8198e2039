import { afterEach, describe, expect, it } from 'vitest';
import type {
  GpuOption,
  GpuProblem,
  KernelLimit,
  Loss,
  MemoryUse,
  NoGpu,
  PlanError,
  PlanReason,
  PlanWarning,
  Remedy,
  Shortage
} from '$lib/backend';
import { i18n } from '$lib/i18n/index.svelte';
import {
  gpuOptionText,
  gpuProblemText,
  itemName,
  kernelLimitText,
  lossText,
  noGpuText,
  planErrorNext,
  planErrorText,
  reasonText,
  remediesText,
  remedyText,
  warningText
} from './plan_words';

/** A value of every kind of a union, without its kind; one that is missing does not compile. */
type Examples<T extends { kind: string }> = { [Kind in T['kind']]: Omit<Extract<T, { kind: Kind }>, 'kind'> };

const valuesOf = <T extends { kind: string }>(examples: Examples<T>): T[] =>
  Object.entries<object>(examples).map(([kind, fields]) => ({ ...fields, kind }) as T);

const GB = 1e9;

const gpuProblems = valuesOf<GpuProblem>({
  tooOld: { capability: '6.1', needed: '7.5' },
  unreadable: { detail: 'E17' },
  noCuda: { detail: 'E17' },
  mig: {},
  hidden: { variable: 'CUDA_VISIBLE_DEVICES' },
  notListed: {},
  noMemoryFigure: { detail: 'E17' },
  driverTooOld: { supported: '11.8', needed: '12.0', minDriver: 525 },
  noRoom: {},
  failed: { detail: 'E17' }
});
const kernelLimits = valuesOf<KernelLimit>({
  expertsPerToken: { has: 9, most: 8 },
  expertsPerLayer: { has: 257, most: 256 },
  headDim: { has: 258, most: 256 },
  headsPerKeyHead: { has: 17, most: 16 },
  oddHeadDim: { has: 63 }
});
const limit: KernelLimit = { kind: 'expertsPerToken', has: 9, most: 8 };
const old: GpuProblem = { kind: 'tooOld', capability: '6.1', needed: '7.5' };
const noGpus = valuesOf<NoGpu>({
  noDriver: { library: 'libnvidia-ml.so.1', minDriver: 525 },
  badLibrary: { detail: 'E17', minDriver: 525 },
  macos: {},
  driverNotLoaded: {},
  driverMismatch: {},
  driverTooOld: { version: '470.1', minDriver: 525 },
  noDevice: { version: '550.1' },
  driverFailed: { call: 'count', detail: 'E17' },
  unusable: { gpus: [{ name: 'GTX 1080', problem: old }] },
  noCuda: { gpu: 'RTX 3060', freeBytes: 11 * GB },
  unsupported: { features: ['attention sinks'] },
  kernelLimit: { gpu: 'RTX 3060', limit }
});
const reasons = valuesOf<PlanReason>({
  cpuAsked: {},
  noGpu: { why: { kind: 'driverTooOld', version: '470.1', minDriver: 525 } },
  gpuTooSmall: { gpu: 'RTX 3060', neededBytes: 3 * GB, limitBytes: 2 * GB },
  gpu: { index: 1, name: 'RTX 3060', freeBytes: 11 * GB, totalBytes: 12 * GB },
  presetOverridden: { askedPerLayer: 2, presetPerLayer: 4, preset: 'gpu16' },
  gpuExpertsAsked: { experts: 96, total: 256, perLayer: 3 },
  gpuExpertsAll: { total: 256 },
  gpuExpertsRest: { experts: 96, total: 256, perLayer: 3, limitBytes: 11 * GB },
  vramReserve: { bytes: 7 * GB },
  ramReserve: { bytes: 3 * GB, availableBytes: 30 * GB },
  allInVramAndRam: { total: 256, onGpu: 100, inRam: 162, inRamBytes: 11 * GB },
  allInRam: { total: 256, bytes: 17 * GB, forGpu: false },
  someInRam: { experts: 40, bytes: 3 * GB, total: 256, totalBytes: 17 * GB },
  pinLimit: { pinned: 9, inRam: 40, limitBytes: 2 * GB },
  contextAsked: { tokens: 400, kvBytes: 2 * GB },
  contextDefault: { tokens: 800, kvBytes: 2 * GB },
  contextGrown: { tokens: 900, kvBytes: 2 * GB, memory: 'vram' },
  contextCut: { tokens: 576, kvBytes: 2 * GB, defaultTokens: 819, memory: 'ram', limitBytes: 3 * GB }
});
const remedies = valuesOf<Remedy>({
  raiseVram: { bytes: 12 * GB },
  raiseRam: { bytes: 12 * GB },
  useRamReserve: { bytes: 12 * GB },
  lowerCtx: { tokens: 400 },
  lowerExpertsOnGpu: { perLayer: 3 },
  closeGpuPrograms: { bytes: 2 * GB },
  useCpu: {},
  globalEviction: {},
  closePrograms: { bytes: 2 * GB },
  raiseContainerLimit: { bytes: 2 * GB },
  smallerModel: { totalBytes: 8 * GB }
});
const gpuOptions = valuesOf<GpuOption>({
  preset: { preset: 'gpu12' },
  vramBudget: {},
  expertsOnGpu: { perLayer: 3 },
  fetchMisses: {}
});
const losses = valuesOf<Loss>({ gpu: {}, experts: { held: 90, planned: 97 }, context: { tokens: 512, planned: 819 } });
const shortage: Shortage = {
  memory: 'ram',
  neededBytes: 20 * GB,
  limitBytes: 8 * GB,
  remedies: [
    { kind: 'lowerCtx', tokens: 4096 },
    { kind: 'raiseRam', bytes: 12_345_000_000 }
  ]
};
const warnings = valuesOf<PlanWarning>({
  vramBudgetOverFree: { budgetBytes: 12 * GB, freeBytes: 10 * GB, reserveBytes: 2 * GB },
  ramBudgetOverFree: { askedBytes: 12 * GB, availableBytes: 10 * GB },
  readsFromDisk: {},
  noEffectOnCpu: { options: [{ kind: 'expertsOnGpu', perLayer: 3 }] },
  tooBig: shortage,
  lessVram: { contextBytes: 2 * GB, expectedContextBytes: 1 * GB, freeBytes: 9 * GB, losses: [{ kind: 'experts', held: 90, planned: 97 }] },
  gpuPassedOver: { name: 'GTX 1080', problem: old },
  gpuFailed: { problem: old },
  gpuLost: {},
  unpinned: { experts: 7 },
  generationConfigIgnored: { detail: 'E17' },
  bosFromConfig: { token: 42, detail: 'E17' }
});
const errors = valuesOf<PlanError>({
  badSizes: { field: 'top_k', value: 9 },
  outOfRange: { option: 'prefetch', value: 3, min: 0, max: 2 },
  contradiction: { device: 'cpu', preset: 'gpu12' },
  noGpu: { why: { kind: 'driverTooOld', version: '470.1', minDriver: 525 } },
  tooBig: shortage
});
const items = valuesOf<MemoryUse>({
  trunk: {},
  trunkWithoutEmbeddings: {},
  embeddings: {},
  kvCache: { tokens: 400 },
  workingBuffers: {},
  fetchBuffers: {},
  transitBuffers: {},
  someExperts: { held: 3, total: 8 },
  expertsInPlace: { total: 8 },
  expertsPinned: { total: 8 },
  cudaContext: {},
  cudaDriver: {},
  program: {}
});

/** Figures that are not said in the window: names of files and features for the command line, and what is derived. */
const UNSAID: Record<string, string[]> = {
  unsupported: ['features'],
  presetOverridden: ['preset'],
  generationConfigIgnored: ['detail'],
  bosFromConfig: ['detail'],
  contradiction: ['device']
};

/** The numbers and names of a value, as far as they are at its top. */
function figuresOf(value: { kind: string }): string[] {
  const fields = Object.entries(value).filter(([name]) => name !== 'kind' && !UNSAID[value.kind]?.includes(name));
  return fields.flatMap(([name, field]) => {
    if (typeof field === 'number') return [name.toLowerCase().endsWith('bytes') ? `${field / GB}\u00a0GB` : String(field)];
    return typeof field === 'string' && /\d/.test(field) && name !== 'preset' ? [field] : [];
  });
}

const TEXTS: [string, () => { text: string; figures: string[] }[]][] = [
  ['reasons', () => reasons.map((it) => ({ text: reasonText(it), figures: figuresOf(it) }))],
  ['warnings', () => warnings.map((it) => ({ text: warningText(it), figures: figuresOf(it) }))],
  ['remedies', () => remedies.map((it) => ({ text: remedyText(it), figures: figuresOf(it) }))],
  ['losses', () => losses.map((it) => ({ text: lossText(it), figures: figuresOf(it) }))],
  ['options of a GPU', () => gpuOptions.map((it) => ({ text: gpuOptionText(it), figures: figuresOf(it) }))],
  ['errors', () => errors.map((it) => ({ text: planErrorText(it), figures: figuresOf(it) }))],
  ['next steps', () => errors.map((it) => ({ text: planErrorNext(it), figures: [] }))],
  ['reasons for no GPU', () => noGpus.map((it) => ({ text: noGpuText(it), figures: figuresOf(it) }))],
  ['problems of a GPU', () => gpuProblems.map((it) => ({ text: gpuProblemText(it), figures: figuresOf(it) }))],
  ['limits of kernels', () => kernelLimits.map((it) => ({ text: kernelLimitText(it), figures: figuresOf(it) }))]
];

/** As a language has its numbers. */
const localized = (figure: string, language: string) =>
  language === 'de' && /^\d+\.\d+\u00a0GB$/.test(figure) ? figure.replace('.', ',') : figure;

afterEach(() => i18n.use('en'));

describe('what a plan says', () => {
  it.each(TEXTS)('%s are there in both languages, with their numbers', (_, texts) => {
    i18n.use('en');
    const english = texts();
    i18n.use('de');
    const german = texts();
    for (const [language, all] of [
      ['en', english],
      ['de', german]
    ] as const) {
      for (const { text, figures } of all) {
        expect(text.trim()).not.toBe('');
        expect(text).not.toMatch(/[{}]|undefined|NaN|--| {2}/);
        for (const figure of figures) expect(text).toContain(localized(figure, language));
      }
    }
    english.forEach(({ text }, index) => expect(german[index]?.text).not.toBe(text));
    for (const { text } of german) expect(text).not.toMatch(/\b(the|and|with|is|not|experts|layer|model)\b/);
  });

  it('names what takes memory', () => {
    for (const language of ['en', 'de'] as const) {
      i18n.use(language);
      for (const item of items) expect(itemName(item)).toMatch(/^\p{L}[\p{L} ]+$/u);
    }
  });

  it('joins what would help, and rounds up what is to be typed in', () => {
    expect(remediesText(shortage.remedies)).toBe('Lower the context length to 4,096 or raise the RAM budget to 12.4\u00a0GB.');
    expect(planErrorNext({ kind: 'tooBig', ...shortage })).toBe(
      'Lower the context length to 4,096, raise the RAM budget to 12.4\u00a0GB, or load it anyway.'
    );
    i18n.use('de');
    expect(remediesText(shortage.remedies)).toBe('Verringere die Kontextlänge auf 4.096 oder erhöhe die RAM-Grenze auf 12,4\u00a0GB.');
  });

  it('says nothing where nothing would help', () => {
    expect(remediesText([])).toBe('');
  });
});
