import { tick } from 'svelte';
import { SvelteMap } from 'svelte/reactivity';
import { backend, type ApiError, type Chat, type ContextUsage, type GenerationEvent, type Message } from '$lib/backend';
import { activePath, branchOf, indexTree, withMessage, type Branch, type MessageTree } from '$lib/chat/tree';
import { asApiError, errorTitle } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { announcer } from './announcer.svelte';
import { chats } from './chats.svelte';
import { edits } from './edits.svelte';
import { Generation } from './generation.svelte';
import { router } from './route.svelte';
import { settings } from './settings.svelte';
import { toasts } from './toasts.svelte';
import { view } from './view.svelte';

type Run = (on: (event: GenerationEvent) => void) => Promise<unknown>;

/** The chat that is open, and the answers being made in this one and in others. */
class Conversation {
  id = $state<string | null>(null);
  messages = $state.raw<Message[]>([]);
  activeLeaf = $state<string | null>(null);
  isLoading = $state(false);
  /** Why the chat cannot be shown. */
  error = $state.raw<ApiError | null>(null);
  /** Why the last message was not sent, with its text, which goes back to the composer. */
  rejected = $state.raw<{ error: ApiError; text: string | null } | null>(null);
  /** A question that was taken back before anything answered it: it goes back to the composer, too. */
  takenBack = $state.raw<string | null>(null);
  /** Errors of answers, by message: kept for their code and hint, which the store does not keep. */
  failures = $state.raw<ReadonlyMap<string, ApiError>>(new Map());
  usage = $state.raw<ContextUsage | null>(null);
  /** Where someone was reading, by chat: a message and how far into it. Not where the end is followed. */
  readonly places = new Map<string, { key: string; intoPx: number }>();
  readonly generations = new SvelteMap<string, Generation>();

  readonly tree: MessageTree = $derived(indexTree(this.messages));
  readonly path: Message[] = $derived(activePath(this.tree, this.activeLeaf));
  readonly generation: Generation | null = $derived(this.id === null ? null : (this.generations.get(this.id) ?? null));
  #opens = 0;
  #usageReads = 0;

  branch(message: Message): Branch | null {
    return branchOf(this.tree, message);
  }

  async open(id: string | null, messageId: string | null = null): Promise<void> {
    const open = ++this.#opens;
    if (id !== this.id) this.#clear(id);
    if (id === null) return;
    this.isLoading = this.messages.length === 0;
    try {
      const chat = await backend.getChat(id);
      if (open !== this.#opens) return;
      this.#show(chat);
      if (messageId !== null && !this.path.some((message) => message.id === messageId)) await this.showBranch(messageId);
    } catch (error) {
      if (open === this.#opens) this.error = asApiError(error);
    } finally {
      if (open === this.#opens) this.isLoading = false;
    }
    void this.readUsage();
  }

  async send(text: string): Promise<void> {
    this.rejected = null;
    await settings.flush();
    let chatId = this.id;
    const isNew = chatId === null;
    const parentId = this.path.at(-1)?.id ?? null;
    try {
      if (chatId === null) {
        chatId = (await backend.createChat()).id;
        this.#clear(chatId);
        router.go({ name: 'chat', id: chatId, message: null }, true);
      }
    } catch (error) {
      this.rejected = { error: asApiError(error), text };
      return;
    }
    const to = chatId;
    await this.#generate(to, { text, parentId }, (on) => backend.sendMessage(to, parentId, text, on));
    if (isNew) await this.#leaveUnstarted(to, text);
  }

  /** A chat that was made for a message nobody took would stay empty in the list. */
  async #leaveUnstarted(chatId: string, text: string): Promise<void> {
    const { rejected, takenBack } = this;
    if (this.id !== chatId || (rejected === null && takenBack === null) || this.messages.length > 0) return;
    await tick();
    // With what was typed while it waited.
    const written = view.composer?.value || text;
    const draft = await backend.getDraft(null).catch(() => '');
    // What was being written beside a suggestion stays.
    if (draft === '' || written !== text) await this.#try(backend.setDraft(null, draft === '' ? written : `${draft}\n\n${written}`));
    await this.#try(backend.deleteChat(chatId));
    this.#opens++;
    this.#clear(null);
    router.go({ name: 'chat', id: null, message: null }, true);
    this.rejected = rejected && { ...rejected, text: null };
  }

  /** Another answer to what `message` answers; if it is a person's own, one to it. */
  regenerate(message: Message): Promise<void> {
    return this.#again(null, (chatId, on) => backend.regenerate(chatId, message.id, on));
  }

  edit(message: Message, text: string): Promise<void> {
    return this.#again({ text, parentId: message.parentId, edited: message.id }, (chatId, on) =>
      backend.editMessage(chatId, message.id, text, on)
    );
  }

  continue(answer: Message): Promise<void> {
    return this.#again(null, (chatId, on) => backend.continueAnswer(chatId, answer.id, on));
  }

  /** Shows the answers that are being made without this page: it was loaded again meanwhile. */
  async attach(): Promise<void> {
    const running = await backend.runningAnswers().catch(() => []);
    for (const id of running) {
      if (!this.generations.has(id)) void this.#generate(id, null, (on) => backend.attachAnswer(id, on), true);
    }
  }

  async stop(): Promise<void> {
    const { id, generation } = this;
    if (id === null || generation === null) return;
    generation.isStopping = true;
    if (!(await this.#try(backend.stopGeneration(id)))) generation.isStopping = false;
  }

  /** Shows the branch that `messageId` is on, where it was left, and remembers it. */
  async showBranch(messageId: string): Promise<void> {
    const { id } = this;
    if (id === null) return;
    const showing = backend.showBranch(id, messageId);
    if (!(await this.#try(showing)) || this.id !== id) return;
    this.activeLeaf = await showing;
    await this.readUsage();
  }

  async remove(message: Message): Promise<void> {
    const { id } = this;
    const deleting = backend.deleteMessage(message.id);
    if (id === null || !(await this.#try(deleting))) return;
    const deletion = { type: 'messages', token: await deleting } as const;
    await this.open(id);
    const undo = async () => {
      await this.#try(backend.restore(deletion));
      if (this.id === id) await this.open(id);
    };
    const undoes = { deletion, chatId: id };
    toasts.show(t('message.deleted'), { action: { label: t('common.undo'), run: () => void undo(), undoes } });
  }

  /** How much of the context the chat takes, with the model that is loaded and the settings as they are. */
  async readUsage(): Promise<void> {
    const { id } = this;
    const read = ++this.#usageReads;
    if (id === null) {
      this.usage = null;
      return;
    }
    try {
      await settings.flush();
      const usage = await backend.contextUsage(id);
      if (read === this.#usageReads) this.usage = usage;
    } catch {
      // The meter is a comfort: without a figure it is not shown.
      if (read === this.#usageReads) this.usage = null;
    }
  }

  async #again(
    question: Generation['question'],
    run: (chatId: string, on: (event: GenerationEvent) => void) => Promise<void>
  ): Promise<void> {
    const { id } = this;
    if (id === null || this.generations.has(id)) return;
    this.rejected = null;
    await settings.flush();
    await this.#generate(id, question, (on) => run(id, on));
  }

  async #generate(chatId: string, question: Generation['question'], run: Run, isAttached = false): Promise<void> {
    /** What is given back if nobody begins to answer it; a page that attaches is told. */
    let asked = question?.text ?? null;
    const generation = new Generation(question, {
      started: (userMessage, answer) =>
        this.#whenOpen(chatId, () => {
          asked ??= userMessage?.text ?? null;
          let messages = this.messages;
          if (userMessage) messages = withMessage(messages, userMessage);
          this.messages = withMessage(messages, answer);
          this.activeLeaf = answer.id;
        }),
      done: ({ message, contextUsed, contextLength }) => {
        this.#end(chatId, message);
        this.#whenOpen(chatId, () => {
          this.#usageReads++;
          if (contextLength > 0) this.usage = { used: contextUsed, length: contextLength };
          else void this.readUsage();
        });
        void this.#announceEnd(message);
      },
      failed: ({ message, error }) => {
        this.failures = new Map([...this.failures, [message.id, error]]);
        this.#end(chatId, message);
        this.#whenOpen(chatId, () => void this.readUsage());
        announcer.say(errorTitle(error));
      },
      takenBack: () => {
        this.generations.delete(chatId);
        announcer.say(t('announce.takenBack'));
        const edited = question?.edited;
        if (edited !== undefined && asked !== null) edits.restore(chatId, edited, asked);
        void this.#giveBack(chatId, edited === undefined ? asked : null);
      }
    });
    this.generations.set(chatId, generation);
    if (!isAttached) announcer.say(t('announce.started'));
    try {
      await run((event) => generation.take(event));
    } catch (thrown) {
      this.#reject(chatId, generation, asApiError(thrown));
    } finally {
      if (this.generations.get(chatId) === generation) {
        this.generations.delete(chatId);
        // It ended without a last event: the store knows best what there is.
        if (this.id === chatId) await this.open(chatId);
      }
    }
  }

  /** Once the last words of the answer were announced. */
  async #announceEnd(message: Message): Promise<void> {
    await tick();
    const count = message.stats?.newTokens ?? 0;
    if (message.state === 'stopped') announcer.say(t('announce.stopped'));
    else if (message.stats?.stopReason === 'length') announcer.say(t('announce.length', { count }));
    else if (message.stats?.stopReason === 'contextFull') announcer.say(t('announce.contextFull', { count }));
    else announcer.say(t('announce.done', { count }));
  }

  /** The chat as it was before `text` was sent, and the words where they were written. */
  async #giveBack(chatId: string, text: string | null): Promise<void> {
    const isOpen = this.id === chatId;
    if (text !== null && !isOpen) {
      const draft = await backend.getDraft(chatId).catch(() => '');
      await this.#try(backend.setDraft(chatId, draft === '' ? text : `${text}\n\n${draft}`));
    }
    if (!isOpen) return;
    await this.open(chatId);
    if (this.id === chatId) this.takenBack = text;
    // A chat that was made for this question alone goes with it.
    if (this.messages.length === 0 && this.error === null && text !== null) await this.#leaveUnstarted(chatId, text);
  }

  #reject(chatId: string, generation: Generation, error: ApiError): void {
    if (error.kind === 'cancelled' || generation.answerId !== null) return;
    const { question } = generation;
    // What was not taken is written on where it was written: the field below may hold something else.
    if (question?.edited !== undefined) edits.restore(chatId, question.edited, question.text);
    const text = question?.edited === undefined ? (question?.text ?? null) : null;
    this.#whenOpen(chatId, () => (this.rejected = { error, text }));
    announcer.say(errorTitle(error));
  }

  #end(chatId: string, message: Message): void {
    this.#whenOpen(chatId, () => (this.messages = withMessage(this.messages, message)));
    this.generations.delete(chatId);
  }

  #whenOpen(chatId: string, act: () => void): void {
    if (this.id === chatId) act();
  }

  #show(chat: Chat): void {
    chats.note(chat);
    this.messages = chat.messages;
    this.activeLeaf = chat.activeLeaf;
    this.error = null;
  }

  #clear(id: string | null): void {
    if (id !== this.id) void edits.show(id);
    this.id = id;
    this.messages = [];
    this.activeLeaf = null;
    this.error = null;
    this.rejected = null;
    this.takenBack = null;
    this.usage = null;
  }

  async #try(call: Promise<unknown>): Promise<boolean> {
    try {
      await call;
      return true;
    } catch (thrown) {
      toasts.fail(asApiError(thrown));
      return false;
    }
  }
}

export const conversation = new Conversation();
