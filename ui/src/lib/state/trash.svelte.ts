import { backend, type ApiError, type Deletion, type DeletionId } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { chats } from './chats.svelte';
import { conversation } from './conversation.svelte';
import { router } from './route.svelte';
import { toasts } from './toasts.svelte';

/** More than anybody looks through. */
const LIMIT = 1000;

export const keyOf = (id: DeletionId): string => (id.type === 'chat' ? id.id : id.token);

/** What was deleted and can be restored. */
class Trash {
  list = $state.raw<Deletion[]>([]);
  isLoaded = $state(false);
  error = $state.raw<ApiError | null>(null);

  async load(): Promise<void> {
    try {
      this.list = await backend.listDeletions(LIMIT);
      this.error = null;
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
        action: { label: t('trash.open'), run: () => router.chat(chat) }
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
