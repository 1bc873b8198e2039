import { tick } from 'svelte';
import { MediaQuery } from 'svelte/reactivity';
import { router } from './route.svelte';
import { settings } from './settings.svelte';

/** What of the window is open. Where there is no room beside the chat, sidebar and pane lie over it. */
class View {
  #hasRoomForSidebar = new MediaQuery('(min-width: 760px)');
  #hasRoomForPane = new MediaQuery('(min-width: 1120px)');
  isSidebarDrawn = $state(false);
  isPaneDrawn = $state(false);
  /** The search field of the sidebar, while there is one. */
  searchField: HTMLInputElement | null = null;
  #isSearchWanted = false;
  /** Where messages are written, while it is on screen. */
  composer: HTMLTextAreaElement | null = null;
  /** Where the link leads that is pointed at, or has the focus. */
  linkTarget = $state<string | null>(null);

  readonly hasPane: boolean = $derived(router.current.name === 'chat' || router.current.name === 'experts');
  readonly isSidebarBeside: boolean = $derived(this.#hasRoomForSidebar.current && settings.current.sidebarOpen);
  readonly isPaneBeside: boolean = $derived(this.hasPane && this.#hasRoomForPane.current && settings.current.paneOpen);
  readonly isPaneOpen: boolean = $derived(this.isPaneBeside || this.isPaneDrawn);

  togglePane(): void {
    if (!this.hasPane) return;
    if (this.#hasRoomForPane.current) settings.change((all) => (all.paneOpen = !all.paneOpen));
    else {
      this.isSidebarDrawn = false;
      this.isPaneDrawn = !this.isPaneDrawn;
    }
  }

  toggleSidebar(): void {
    if (this.#hasRoomForSidebar.current) settings.change((all) => (all.sidebarOpen = !all.sidebarOpen));
    else this.isSidebarDrawn = !this.isSidebarDrawn;
  }

  focusSearch(): void {
    if (this.searchField?.isConnected) {
      this.searchField.focus();
      this.searchField.select();
      return;
    }
    this.#isSearchWanted = true;
    this.isPaneDrawn = false;
    this.toggleSidebar();
  }

  setSearchField(field: HTMLInputElement): void {
    this.searchField = field;
    if (this.#isSearchWanted) requestAnimationFrame(() => field.focus());
    this.#isSearchWanted = false;
  }

  /** On a touch screen, the keyboard would cover what was asked for. */
  focusComposer(): void {
    if (matchMedia('(hover: hover)').matches) this.composer?.focus();
  }

  /** What had the focus went away: goes on where one writes, else where the screen begins. */
  async catchFocus(): Promise<void> {
    await tick();
    const { activeElement } = document;
    if (activeElement?.isConnected && activeElement !== document.body) return;
    this.focusComposer();
    if (document.activeElement === document.body) document.getElementById('main')?.focus();
  }

  closeDrawers(): void {
    this.isSidebarDrawn = false;
    this.isPaneDrawn = false;
  }
}

export const view = new View();
