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

  readonly hasPane: boolean = $derived(router.current.name === 'chat' || router.current.name === 'experts');
  readonly isSidebarBeside: boolean = $derived(this.#hasRoomForSidebar.current && settings.current.sidebarOpen);
  readonly isPaneBeside: boolean = $derived(this.hasPane && this.#hasRoomForPane.current && settings.current.paneOpen);
  readonly isPaneOpen: boolean = $derived(this.isPaneBeside || this.isPaneDrawn);

  togglePane(): void {
    if (!this.hasPane) return;
    if (this.#hasRoomForPane.current) settings.change((all) => (all.paneOpen = !all.paneOpen));
    else this.isPaneDrawn = !this.isPaneDrawn;
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
    this.toggleSidebar();
  }

  setSearchField(field: HTMLInputElement): void {
    this.searchField = field;
    if (this.#isSearchWanted) requestAnimationFrame(() => field.focus());
    this.#isSearchWanted = false;
  }

  closeDrawers(): void {
    this.isSidebarDrawn = false;
    this.isPaneDrawn = false;
  }
}

export const view = new View();
