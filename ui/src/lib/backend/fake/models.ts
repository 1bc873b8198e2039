import type {
  GpuInfo,
  HardwareInfo,
  LoadStage,
  ModelEntry,
  ModelState,
  OffloadSettings,
  PlanItem,
  PlanView,
  Quantization
} from '../bindings';
import { failure, refused } from './failures';
import type { Options } from './options';

const GPU: GpuInfo = {
  name: 'NVIDIA GeForce RTX 3060',
  vramTotalBytes: 12.88e9,
  vramFreeBytes: 11.4e9,
  computeCapability: '8.6',
  driver: '560.35',
  problem: null
};

export function hardware(options: Options): HardwareInfo {
  return {
    gpu: options.hasGpu ? GPU : null,
    gpuReason: options.hasGpu ? null : { kind: 'noDriver', library: 'libnvidia-ml.so.1', minDriver: 525 },
    ramTotalBytes: 33.5e9,
    ramFreeBytes: 21.3e9,
    cpuName: 'AMD Ryzen 7 5800X',
    physicalCores: 8,
    cpuFeatures: ['AVX2', 'FMA', 'F16C'],
    diskFreeBytes: 143e9,
    diskTotalBytes: 512e9
  };
}

const DAY = 86_400_000;

export const DEMO: ModelEntry = {
  id: 'demo',
  name: 'Octet demo',
  kind: 'demo',
  path: '/home/ada/.local/share/octet/demo',
  sizeBytes: 12.4e6,
  freesBytes: 0,
  installedAtMs: null,
  nLayers: 6,
  nExperts: 8,
  quantization: {
    experts: [{ kind: 'hqq', bits: 4, groupSize: 32, scaleGroupSize: null }],
    attention: [{ kind: 'hqq', bits: 8, groupSize: 64, scaleGroupSize: null }]
  },
  maxContext: 1024,
  hasTokenizer: true,
  health: { kind: 'good', verifiedAtMs: null },
  isInUse: false
};

export const MIXTRAL: ModelEntry = {
  id: 'mixtral',
  name: 'Mixtral 8x7B Instruct',
  kind: 'linked',
  path: '/home/ada/models/mixtral',
  sizeBytes: 18.2e9,
  freesBytes: 0,
  installedAtMs: Date.now() - 12 * DAY,
  nLayers: 32,
  nExperts: 8,
  quantization: {
    experts: [{ kind: 'hqq', bits: 2, groupSize: 16, scaleGroupSize: 128 }],
    attention: [{ kind: 'hqq', bits: 4, groupSize: 64, scaleGroupSize: 256 }]
  },
  maxContext: 32768,
  hasTokenizer: true,
  health: { kind: 'good', verifiedAtMs: Date.now() - 3 * DAY },
  isInUse: false
};

/** Of two models that differ from the others in nothing else. */
const THREE_BITS: Quantization = {
  experts: [{ kind: 'hqq', bits: 3, groupSize: 32, scaleGroupSize: 128 }],
  attention: [{ kind: 'hqq', bits: 4, groupSize: 64, scaleGroupSize: 256 }]
};

export const HERMES: ModelEntry = {
  ...MIXTRAL,
  id: 'ada/Nous-Hermes-2-Mixtral-3bit',
  name: 'Nous Hermes 2 Mixtral',
  kind: 'hub',
  path: '/home/ada/.cache/huggingface/hub/models--ada--Nous-Hermes-2-Mixtral-3bit/snapshots/main',
  sizeBytes: 22.9e9,
  freesBytes: 22.9e9,
  quantization: THREE_BITS,
  health: {
    kind: 'damaged',
    damage: { kind: 'files' },
    files: [{ file: 'model-00017-of-00257.safetensors', fault: { kind: 'size', found: 41_231_872, expected: 66_401_280 } }],
    canRepair: true
  }
};

/** A model of the same name, in which something is missing. */
const TWIN: ModelEntry = {
  ...MIXTRAL,
  id: 'mixtral-3bit',
  path: '/home/ada/models/mixtral-3bit',
  quantization: THREE_BITS,
  hasTokenizer: false
};

const used = (items: PlanItem[]) => items.reduce((sum, item) => sum + item.bytes, 0);

interface Sizes {
  trunk: number;
  expert: number;
  perToken: number;
  buffers: number;
}

const sizesOf = (model: ModelEntry): Sizes =>
  model.kind === 'demo'
    ? { trunk: 3e6, expert: 190e3, perToken: 12e3, buffers: 4e6 }
    : { trunk: 1.24e9, expert: 66.4e6, perToken: 131072, buffers: 155e6 };

function gpuShare(model: ModelEntry, offload: OffloadSettings, sizes: Sizes, context: number, limit: number): number {
  if (offload.expertsPerLayerOnGpu !== null) return offload.expertsPerLayerOnGpu;
  if (offload.preset === 'gpu16') return 4;
  if (offload.preset === 'gpu12') return 3;
  const left = limit - sizes.trunk - sizes.buffers - 400e6 - context * sizes.perToken;
  return Math.max(0, Math.min(model.nExperts, Math.floor(left / sizes.expert / model.nLayers)));
}

export function makePlan(model: ModelEntry, offload: OffloadSettings, options: Options): PlanView {
  const machine = hardware(options);
  const sizes = sizesOf(model);
  const isGpu = machine.gpu !== null && offload.preset !== 'cpu';
  const contextLength = offload.contextLength ?? Math.min(8192, model.maxContext);
  const total = model.nLayers * model.nExperts;
  const cache: PlanItem = { what: { kind: 'kvCache', tokens: contextLength }, bytes: contextLength * sizes.perToken };
  const reasons: PlanView['reasons'] = [];

  let gpu: PlanView['gpu'] = null;
  let onGpu = 0;
  if (isGpu && machine.gpu) {
    const limit = offload.vramBudgetBytes ?? machine.gpu.vramFreeBytes;
    onGpu = gpuShare(model, offload, sizes, contextLength, limit);
    const held = onGpu * model.nLayers;
    const items: PlanItem[] = [
      { what: { kind: 'cudaContext' }, bytes: 400e6 },
      { what: { kind: 'trunkWithoutEmbeddings' }, bytes: sizes.trunk },
      { what: { kind: 'workingBuffers' }, bytes: sizes.buffers },
      cache,
      { what: { kind: 'someExperts', held, total }, bytes: held * sizes.expert }
    ];
    reasons.push(
      { kind: 'gpu', index: 0, name: machine.gpu.name, freeBytes: machine.gpu.vramFreeBytes, totalBytes: machine.gpu.vramTotalBytes },
      { kind: 'gpuExpertsRest', experts: held, total, perLayer: onGpu, limitBytes: limit }
    );
    gpu = { items, usedBytes: used(items), limitBytes: limit, freeBytes: machine.gpu.vramFreeBytes };
  }

  const ramLimit = offload.ramBudgetBytes ?? machine.ramFreeBytes - 3.3e9;
  const program: PlanItem = { what: { kind: 'program' }, bytes: 150e6 };
  const base: PlanItem[] = isGpu
    ? [program]
    : [{ what: { kind: 'trunk' }, bytes: sizes.trunk }, { what: { kind: 'workingBuffers' }, bytes: sizes.buffers }, program, cache];
  if (!isGpu) reasons.push(machine.gpuReason ? { kind: 'noGpu', why: machine.gpuReason } : { kind: 'cpuAsked' });
  reasons.push({ kind: 'contextDefault', tokens: contextLength, kvBytes: cache.bytes });
  const fitting = Math.floor((ramLimit - used(base)) / sizes.expert);
  const expertsInRam = Math.max(0, Math.min(total - onGpu * model.nLayers, fitting));
  const items: PlanItem[] = [...base, { what: { kind: 'someExperts', held: expertsInRam, total }, bytes: expertsInRam * sizes.expert }];
  const onDisk = total - onGpu * model.nLayers - expertsInRam;
  const isOver = gpu !== null && gpu.usedBytes > gpu.limitBytes;

  return {
    device: isGpu && machine.gpu ? { kind: 'cuda', index: 0, uuid: 'GPU-0', name: machine.gpu.name } : { kind: 'cpu' },
    contextLength,
    expertsPerLayerOnGpu: onGpu,
    nExperts: model.nExperts,
    nLayers: model.nLayers,
    expertsInRam,
    totalExperts: total,
    prefetch: offload.prefetch ?? 2,
    gpu,
    ram: { items, usedBytes: used(items), limitBytes: ramLimit, freeBytes: machine.ramFreeBytes },
    fit: isOver || fitting < 0 ? 'tooBig' : onDisk > 0 ? 'tight' : 'fits',
    reasons,
    warnings: onDisk > 0 ? [{ kind: 'readsFromDisk' }] : []
  };
}

const STAGES: readonly [LoadStage, number][] = [
  ['checking', 0.05],
  ['tokenizer', 0.1],
  ['trunk', 0.25],
  ['experts', 0.95],
  ['warming', 1]
];

/** What is loaded, and how it gets there. */
export class FakeModels {
  state: ModelState;
  entries: ModelEntry[];
  #timer: ReturnType<typeof setInterval> | undefined;
  #settle: ((state: ModelState) => void) | undefined;
  #listeners = new Set<(state: ModelState) => void>();

  constructor(
    private readonly options: Options,
    private readonly offload: () => OffloadSettings
  ) {
    this.entries = structuredClone(options.isFirstStart ? [DEMO] : [DEMO, MIXTRAL, HERMES]);
    if (options.hasTwins) this.entries.push(TWIN);
    this.state = { type: 'none' };
    if (options.model === 'ready') this.state = this.#ready(MIXTRAL);
    if (options.model === 'demo') this.state = this.#ready(DEMO);
    if (options.model === 'failed') this.state = { type: 'failed', model: MIXTRAL, error: failure('tooBig') };
    if (options.model === 'loading') void this.load('mixtral');
  }

  listen(on: (state: ModelState) => void): () => void {
    this.#listeners.add(on);
    return () => this.#listeners.delete(on);
  }

  entry(id: string): ModelEntry {
    const found = this.entries.find((entry) => entry.id === id);
    if (!found) throw refused('unknownModel');
    return found;
  }

  load(id: string, isForced = false): Promise<ModelState> {
    this.cancel();
    const model = this.entry(id);
    const kind = model.hasTokenizer ? (isForced ? undefined : this.options.failures.get('loadModel')) : 'noTokenizer';
    const start = performance.now();
    return new Promise((resolve) => {
      this.#settle = resolve;
      const step = () => {
        const share = Math.min(1, (performance.now() - start) / this.options.loadMs);
        if (kind && share > 0.3) return this.#end({ type: 'failed', model, error: failure(kind) });
        if (share >= 1) return this.#end(this.#ready(model));
        const stage = STAGES.find(([, end]) => share < end)?.[0] ?? 'warming';
        this.#set({ type: 'loading', model, progress: { stage, doneBytes: share * model.sizeBytes, totalBytes: model.sizeBytes } });
      };
      this.#timer = setInterval(step, 50);
      step();
    });
  }

  cancel(): void {
    if (this.state.type === 'loading') this.#end({ type: 'none' });
  }

  unload(): void {
    this.cancel();
    this.#set({ type: 'none' });
  }

  #ready(model: ModelEntry): ModelState {
    const offload = { ...this.offload() };
    return { type: 'ready', model, plan: makePlan(model, offload, this.options), loadMs: this.options.loadMs, offload };
  }

  #end(state: ModelState): void {
    clearInterval(this.#timer);
    this.#set(state);
    this.#settle?.(state);
    this.#settle = undefined;
  }

  #set(state: ModelState): void {
    this.state = state;
    for (const on of this.#listeners) on(state);
  }
}
