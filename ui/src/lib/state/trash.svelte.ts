import { backend, type ApiError, type Deletion, type DeletionId } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { chats } from './chats.svelte';
import { conversation } from './conversation.svelte';
import { router } from './route.svelte';
import { toasts, type Toast, type Undoable } from './toasts.svelte';

/** More than anybody looks through. */
const LIMIT = 1000;

export const keyOf = (id: DeletionId): string => (id.type === 'chat' ? id.id : id.token);

/** What was deleted and can be restored. */
class Trash {
  list = $state.raw<Deletion[]>([]);
  isLoaded = $state(false);
  error = $state.raw<ApiError | null>(null);

  async start(): Promise<void> {
    await backend.onChatsChanged(() => {
      if (toasts.list.some(({ action }) => action?.undoes)) void this.load();
    });
  }

  async load(): Promise<void> {
    // A deletion that happens meanwhile may be missing from the answer.
    const offered = new Set(toasts.list);
    try {
      this.list = await backend.listDeletions(LIMIT);
      this.error = null;
      this.#dropUndos(offered);
    } catch (error) {
      this.error = asApiError(error);
    }
    this.isLoaded = true;
  }

  async restore({ id, title }: Deletion): Promise<void> {
    await this.#do(async () => {
      const chat = await backend.restore(id);
      if (conversation.id === chat) await conversation.open(chat);
      toasts.show(t('trash.restored', { title: title || t('chat.untitled') }), {
        action: { label: t('trash.open'), run: () => router.chat(chat), target: chat }
      });
      await chats.refresh(true);
    });
  }

  deleteForGood({ id }: Deletion): Promise<void> {
    return this.#do(() => backend.deleteForGood(id));
  }

  empty(): Promise<void> {
    return this.#do(() => backend.emptyTrash());
  }

  /** What was restored or deleted permanently cannot be undone: nothing on screen may offer to. */
  #dropUndos(offered: ReadonlySet<Toast>): void {
    const left = new Set(this.list.map(({ id }) => keyOf(id)));
    // The messages of a deleted chat are not listed by themselves.
    const isGone = (undoes: Undoable) => 'chatId' in undoes && !left.has(keyOf(undoes.deletion)) && !left.has(undoes.chatId);
    for (const { id, action } of offered) if (action?.undoes && isGone(action.undoes)) toasts.dismiss(id);
  }

  async #do(call: () => Promise<void>): Promise<void> {
    try {
      await call();
    } catch (thrown) {
      toasts.fail(asApiError(thrown));
    }
    await this.load();
  }
}

export const trash = new Trash();
