import { backend, type ApiError, type AppInfo, type Notice } from '$lib/backend';
import { asApiError } from '$lib/errors';
import { chats } from './chats.svelte';
import { conversation } from './conversation.svelte';
import { drops } from './drops.svelte';
import { library } from './library.svelte';
import { models } from './models.svelte';
import { router } from './route.svelte';
import { settings } from './settings.svelte';
import { trash } from './trash.svelte';
import { flushAll } from './unsaved';

class App {
  info = $state.raw<AppInfo | null>(null);
  notices = $state.raw<Notice[]>([]);
  phase = $state<'starting' | 'ready' | 'failed'>('starting');
  error = $state.raw<ApiError | null>(null);

  async start(): Promise<void> {
    try {
      await settings.load();
      await backend.onClosing(() => void this.putDown().finally(() => backend.readyToClose()));
      const [info] = await Promise.all([
        backend.appInfo(),
        models.start().then(() => library.start()),
        chats.start(),
        trash.start(),
        drops.start()
      ]);
      this.info = info;
      this.notices = info.notices;
      if (info.firstStart && router.current.name === 'chat' && router.current.id === null) {
        router.go({ name: 'welcome' }, true);
      }
      await conversation.attach();
      // Begun by a page before this one, in the very moment in which it went.
      await backend.onChatsChanged(() => void conversation.attach());
      this.phase = 'ready';
    } catch (error) {
      this.error = asApiError(error);
      this.phase = 'failed';
    }
  }

  /** Writes what was typed: nobody knows whether the window comes back. */
  async putDown(): Promise<void> {
    await Promise.all([flushAll(), settings.flush()]);
  }

  add(notices: Notice[]): void {
    this.notices = [...this.notices, ...notices];
  }

  dismiss(notice: Notice): void {
    this.notices = this.notices.filter((one) => one !== notice);
  }
}

export const app = new App();
