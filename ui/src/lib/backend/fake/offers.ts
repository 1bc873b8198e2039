import type { ModelEntry, Offer, Quantization } from '../bindings';

const bits = (experts: number, groupSize: number): Quantization => ({
  experts: [{ kind: 'hqq', bits: experts, groupSize, scaleGroupSize: null }],
  attention: [{ kind: 'hqq', bits: 4, groupSize: 64, scaleGroupSize: null }]
});

/** The one that Octet was made for. */
export const REPO = 'lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-demo';

const INSTRUCT: Offer = {
  repo: REPO,
  title: 'Mixtral 8x7B Instruct, offloading demo',
  about: 'Follows instructions in English, French, Italian, German and Spanish. The checkpoint that Octet was made for.',
  license: 'apache-2.0',
  page: `https://huggingface.co/${REPO}`,
  sizeBytes: 18.2e9,
  files: 259,
  quantization: bits(2, 16),
  tokenizerFrom: ['mobiuslabsgmbh/Mixtral-8x7B-Instruct-v0.1-hf-attn-4bit-moe-2bit-HQQ', 'mistralai/Mixtral-8x7B-Instruct-v0.1'],
  fit: {
    badge: 'fits',
    problem: null,
    expertsOnGpu: 4,
    expertsInRam: 256,
    totalExperts: 256,
    ramBytes: 9.4e9,
    vramBytes: 10.9e9
  },
  disk: { neededBytes: 18.2e9, freeBytes: 143e9, isEnough: true },
  status: 'available',
  isRecommended: true,
  compared: { to: 'Mixtral 8x7B, 3-bit experts', isBetter: false, bytes: 4.7e9 }
};

const BASE: Offer = {
  ...INSTRUCT,
  repo: 'ada/Mixtral-8x7B-v0.1-HQQ-3bit',
  title: 'Mixtral 8x7B, 3-bit experts',
  about: '',
  page: 'https://huggingface.co/ada/Mixtral-8x7B-v0.1-HQQ-3bit',
  sizeBytes: 22.9e9,
  isRecommended: false,
  compared: { to: INSTRUCT.title, isBetter: true, bytes: 4.7e9 },
  quantization: bits(3, 32),
  fit: {
    badge: 'tight',
    problem: null,
    expertsOnGpu: 3,
    expertsInRam: 256,
    totalExperts: 256,
    ramBytes: 18.6e9,
    vramBytes: 11.1e9
  }
};

export const CATALOGUE: readonly Offer[] = [INSTRUCT, BASE];

/** Not in the catalogue; found by its name. */
export const OTHER: Offer = {
  ...INSTRUCT,
  repo: 'ada/Nous-Hermes-2-Mixtral-8x7B-HQQ',
  title: 'Nous-Hermes-2-Mixtral-8x7B-HQQ',
  about: '',
  license: null,
  isRecommended: false,
  compared: null,
  page: 'https://huggingface.co/ada/Nous-Hermes-2-Mixtral-8x7B-HQQ',
  quantization: null,
  tokenizerFrom: ['ada/Nous-Hermes-2-Mixtral-8x7B-HQQ'],
  fit: {
    badge: 'tooBig',
    problem: {
      kind: 'tooBig',
      memory: 'ram',
      neededBytes: 96e9,
      limitBytes: 18e9,
      remedies: [{ kind: 'smallerModel', totalBytes: 33.5e9 }]
    },
    expertsOnGpu: null,
    expertsInRam: 0,
    totalExperts: 256,
    ramBytes: 96e9,
    vramBytes: null
  }
};

/** The model that a finished download leaves. */
export function fetched(offer: Offer, folder: string): ModelEntry {
  return {
    id: offer.repo,
    name: offer.title,
    kind: 'hub',
    path: `${folder}/models--${offer.repo.replace('/', '--')}/snapshots/main`,
    sizeBytes: offer.sizeBytes,
    freesBytes: offer.sizeBytes,
    installedAtMs: Date.now(),
    nLayers: 32,
    nExperts: 8,
    quantization: offer.quantization ?? bits(2, 16),
    maxContext: 32768,
    hasTokenizer: true,
    health: { kind: 'good', verifiedAtMs: Date.now() },
    isInUse: false
  };
}
