import { SvelteMap } from 'svelte/reactivity';
import { backend, type ApiError, type ChatSummary, type SearchHit } from '$lib/backend';
import { withFirstPage, withNextPage } from '$lib/chat/pages';
import { asApiError } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { router } from './route.svelte';
import { toasts } from './toasts.svelte';

const PAGE = 100;
const SEARCH_LIMIT = 50;
const REFRESH_AFTER_MS = 100;

/** The chats of the sidebar, page by page, and the search among them. */
class Chats {
  list = $state.raw<ChatSummary[]>([]);
  error = $state.raw<ApiError | null>(null);
  isLoaded = $state(false);
  query = $state('');
  hits = $state.raw<SearchHit[] | null>(null);
  /** Of every chat that was seen, also of those that the list has not come to. */
  readonly #titles = new SvelteMap<string, string>();
  #next: string | null = null;
  #isLoadingMore = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #searches = 0;

  async start(): Promise<void> {
    await backend.onChatsChanged(({ chatId }) => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.refresh(chatId === null), REFRESH_AFTER_MS);
    });
    await this.refresh(true);
  }

  async refresh(isAll = false): Promise<void> {
    try {
      const page = await backend.listChats(null, PAGE);
      page.chats.forEach((chat) => this.note(chat));
      this.list = isAll ? page.chats : withFirstPage(this.list, page);
      if (isAll || this.list.length <= PAGE) this.#next = page.next;
      this.error = null;
    } catch (error) {
      this.error = asApiError(error);
    }
    this.isLoaded = true;
  }

  async more(): Promise<void> {
    if (this.#next === null || this.#isLoadingMore) return;
    this.#isLoadingMore = true;
    try {
      const page = await backend.listChats(this.#next, PAGE);
      page.chats.forEach((chat) => this.note(chat));
      this.list = withNextPage(this.list, page);
      this.#next = page.next;
    } catch (error) {
      this.error = asApiError(error);
    } finally {
      this.#isLoadingMore = false;
    }
  }

  titleOf(id: string): string {
    return this.#titles.get(id) || t('chat.untitled');
  }

  note({ id, title }: Pick<ChatSummary, 'id' | 'title'>): void {
    if (this.#titles.get(id) !== title) this.#titles.set(id, title);
  }

  async rename(id: string, title: string): Promise<void> {
    const wanted = title.trim();
    if (wanted === '') return;
    this.note({ id, title: wanted });
    this.list = this.list.map((chat) => (chat.id === id ? { ...chat, title: wanted } : chat));
    await this.#do(() => backend.renameChat(id, wanted));
  }

  async pin(id: string, isPinned: boolean): Promise<void> {
    await this.#do(() => backend.pinChat(id, isPinned));
    await this.refresh(true);
  }

  async remove(chat: ChatSummary): Promise<void> {
    const title = chat.title || t('chat.untitled');
    if (!(await this.#do(() => backend.deleteChat(chat.id)))) return;
    this.list = this.list.filter((one) => one.id !== chat.id);
    const { current } = router;
    const wasOpen = current.name === 'chat' && current.id === chat.id;
    if (wasOpen) router.chat(null);
    const undo = async () => {
      const isBack = await this.#do(() => backend.restore({ type: 'chat', id: chat.id }));
      await this.refresh(true);
      if (isBack && wasOpen) router.chat(chat.id);
    };
    toasts.drop(({ target }) => target === chat.id);
    const undoes = { deletion: { type: 'chat', id: chat.id }, chatId: chat.id } as const;
    toasts.show(t('chats.deleted', { title }), { action: { label: t('common.undo'), run: () => void undo(), undoes } });
  }

  async export(id: string | null, format: 'json' | 'markdown'): Promise<void> {
    await this.#do(async () => {
      const path = await backend.exportChat(id, format);
      if (path !== null) toasts.show(t('chats.exported', { path }));
    });
  }

  async import(): Promise<void> {
    await this.#do(async () => {
      const result = await backend.importChats();
      if (result === null) return;
      toasts.show(t('chats.imported', { count: result.chats }));
      await this.refresh(true);
    });
  }

  async search(query: string): Promise<void> {
    this.query = query;
    const search = ++this.#searches;
    if (query.trim() === '') {
      this.hits = null;
      return;
    }
    await this.#do(async () => {
      const hits = await backend.searchChats(query, SEARCH_LIMIT);
      if (search === this.#searches) this.hits = hits;
    });
  }

  async #do(call: () => Promise<unknown>): Promise<boolean> {
    try {
      await call();
      return true;
    } catch (thrown) {
      toasts.fail(asApiError(thrown));
      return false;
    }
  }
}

export const chats = new Chats();
