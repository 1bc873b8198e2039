import type { GenerationEvent, Message, QueueReason } from '$lib/backend';
import { FrameBuffer } from '$lib/chat/frame_buffer';

/** What changes with every token cannot be read, and drawing it costs the model time. */
const FIGURES_EVERY_MS = 1000;

interface Progress {
  tokens: number;
  tokensPerSec: number;
  lastExperts: number[];
}

export interface GenerationEnds {
  started(userMessage: Message | null, answer: Message): void;
  done(event: Extract<GenerationEvent, { type: 'done' }>): void;
  failed(event: Extract<GenerationEvent, { type: 'failed' }>): void;
}

/** An answer in the making. */
export class Generation {
  phase = $state<'queued' | 'waiting' | 'reading' | 'writing'>('waiting');
  queue = $state.raw<{ reason: QueueReason; position: number } | null>(null);
  prefill = $state.raw<{ done: number; total: number; reused: number } | null>(null);
  answerId = $state<string | null>(null);
  /** The whole text of the answer as far as it has come. */
  text = $state('');
  tokens = $state(0);
  shownTokens = $state(0);
  shownSpeed = $state(0);
  lastExperts = $state.raw<number[]>([]);
  #figuresShownAt = -Infinity;
  droppedMessages = $state(0);
  isStopping = $state(false);
  readonly #buffer: FrameBuffer<Progress>;

  /** `question`: what was asked and is not in the chat yet, with the message it follows. */
  constructor(
    readonly question: { text: string; parentId: string | null } | null,
    private readonly ends: GenerationEnds,
    buffer?: (apply: ConstructorParameters<typeof FrameBuffer<Progress>>[0]) => FrameBuffer<Progress>
  ) {
    const apply = (arrived: { text: string; latest: Progress }) => {
      this.text += arrived.text;
      this.tokens = arrived.latest.tokens;
      this.#showFigures(arrived.latest);
    };
    this.#buffer = buffer ? buffer(apply) : new FrameBuffer(apply);
  }

  take(event: GenerationEvent): void {
    switch (event.type) {
      case 'queued':
        this.phase = 'queued';
        this.queue = { reason: event.reason, position: event.position };
        break;
      case 'started':
        this.phase = 'waiting';
        this.answerId = event.answer.id;
        this.text = event.answer.text;
        this.ends.started(event.userMessage, event.answer);
        break;
      case 'prefill':
        this.phase = 'reading';
        this.prefill = { done: event.done, total: event.total, reused: event.reused };
        break;
      case 'text': {
        this.phase = 'writing';
        const { tokens, tokensPerSec, lastExperts } = event;
        this.#buffer.push(event.delta, { tokens, tokensPerSec, lastExperts });
        break;
      }
      case 'contextShift':
        this.droppedMessages = event.droppedMessages;
        break;
      case 'done':
        this.#buffer.flush();
        this.ends.done(event);
        break;
      case 'failed':
        this.#buffer.flush();
        this.ends.failed(event);
        break;
    }
  }

  #showFigures({ tokens, tokensPerSec, lastExperts }: Progress): void {
    const now = performance.now();
    if (now - this.#figuresShownAt < FIGURES_EVERY_MS) return;
    this.#figuresShownAt = now;
    this.shownTokens = tokens;
    this.shownSpeed = tokensPerSec;
    this.lastExperts = lastExperts;
  }
}
