import type { GenerationEvent, Message, QueueReason } from '$lib/backend';
import { FrameBuffer } from '$lib/chat/frame_buffer';

/** What changes with every token cannot be read, and drawing it costs the model time. */
const FIGURES_EVERY_MS = 1000;
const READING_EVERY_MS = 250;

interface Progress {
  tokens: number;
  tokensPerSec: number | null;
  contextUsed: number;
  lastExperts: number[];
}

/** How far the prompt is. */
type Reading = Omit<Extract<GenerationEvent, { type: 'prefill' }>, 'type'>;

export interface GenerationEnds {
  started(userMessage: Message | null, answer: Message): void;
  done(event: Extract<GenerationEvent, { type: 'done' }>): void;
  failed(event: Extract<GenerationEvent, { type: 'failed' }>): void;
  takenBack(): void;
}

/** An answer in the making. */
export class Generation {
  phase = $state<'queued' | 'waiting' | 'reading' | 'writing'>('waiting');
  queue = $state.raw<{ reason: QueueReason; position: number } | null>(null);
  prefill = $state.raw<Reading | null>(null);
  answerId = $state<string | null>(null);
  /** The whole text of the answer as far as it has come. */
  text = $state('');
  tokens = $state(0);
  /** null: too few tokens came for a speed. */
  shownSpeed = $state<number | null>(null);
  /** Tokens of the context in use; null before the first one is known. */
  shownContext = $state<number | null>(null);
  lastExperts = $state.raw<number[]>([]);
  #figuresShownAt = -Infinity;
  #readingShownAt = -Infinity;
  droppedMessages = $state(0);
  isStopping = $state(false);
  readonly #buffer: FrameBuffer<Progress>;

  /** `question`: what was asked and is not in the chat yet, with the message it follows, and the one it is another text for. */
  constructor(
    readonly question: { text: string; parentId: string | null; edited?: string } | null,
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
        this.#showReading(event);
        this.shownContext = event.total;
        break;
      case 'text': {
        this.phase = 'writing';
        const { tokens, tokensPerSec, contextUsed, lastExperts } = event;
        this.#buffer.push(event.delta, { tokens, tokensPerSec, contextUsed, lastExperts });
        break;
      }
      case 'contextShift':
        this.droppedMessages = event.droppedMessages;
        break;
      case 'done':
        this.#buffer.flush();
        this.ends.done(event);
        break;
      case 'takenBack':
        this.ends.takenBack();
        break;
      case 'failed':
        this.#buffer.flush();
        this.ends.failed(event);
        break;
    }
  }

  #showReading(reading: Extract<GenerationEvent, { type: 'prefill' }>): void {
    const now = performance.now();
    const isFirst = this.phase !== 'reading';
    if (!isFirst && reading.done < reading.total && now - this.#readingShownAt < READING_EVERY_MS) return;
    this.#readingShownAt = now;
    this.phase = 'reading';
    this.prefill = reading;
  }

  #showFigures({ tokensPerSec, contextUsed, lastExperts }: Progress): void {
    const now = performance.now();
    const isFirstSpeed = this.shownSpeed === null && tokensPerSec !== null;
    if (now - this.#figuresShownAt < FIGURES_EVERY_MS && !isFirstSpeed) return;
    this.#figuresShownAt = now;
    this.shownSpeed = tokensPerSec;
    this.shownContext = contextUsed;
    this.lastExperts = lastExperts;
  }
}
