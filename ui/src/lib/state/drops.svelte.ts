import { backend, type Dropped } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { t } from '$lib/i18n/index.svelte';
import { chats } from './chats.svelte';
import { library } from './library.svelte';
import { router } from './route.svelte';
import { toasts } from './toasts.svelte';

/** What was dropped on the window, and what can be done with it: never nothing. */
class Drops {
  /** Files that may hold chats, until the person says whether to import them. */
  offered = $state.raw<Dropped[]>([]);

  start(): Promise<unknown> {
    return backend.onFilesDropped((files) => this.take(files));
  }

  take(files: Dropped[]): void {
    this.offered = files.filter(({ kind }) => kind === 'chats');
    if (this.offered.length > 0 || files.length === 0) return;
    const model = files.find(({ kind }) => kind === 'model');
    if (model) {
      const action = { label: t('drop.addModel'), run: () => void this.addModel(model) };
      toasts.show(t('drop.model', { name: model.name }), { action });
      return;
    }
    const folder = files.find(({ kind }) => kind === 'folder');
    if (folder) {
      const action = { label: t('model.manage'), run: () => router.go({ name: 'models' }) };
      toasts.show(t('drop.folder', { name: folder.name }), { action });
    } else {
      toasts.show(t('drop.other', { name: files[0]?.name ?? '', count: files.length }));
    }
  }

  /** A GGUF file, used where it is. */
  private async addModel({ path, name }: Dropped): Promise<void> {
    const entry = await library.import(path, 'link');
    if (entry) toasts.show(t('drop.modelAdded', { name }));
    // What went wrong is said there.
    router.go({ name: 'models' });
  }

  async import(): Promise<void> {
    const files = this.offered;
    this.offered = [];
    let count = 0;
    for (const { path, name } of files) {
      try {
        count += (await backend.importDroppedChats(path)).chats;
      } catch (thrown) {
        toasts.fail(asApiError(thrown), name);
      }
    }
    if (count > 0) toasts.show(t('chats.imported', { count }));
    await chats.refresh(true);
  }
}

export const drops = new Drops();
