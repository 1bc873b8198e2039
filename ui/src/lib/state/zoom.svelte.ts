import { i18n, t } from '$lib/i18n/index.svelte';
import { percent } from '$lib/format';
import { ZOOM_DEFAULT, zoomStep } from '$lib/settings/zoom';
import { announcer } from './announcer.svelte';
import { settings } from './settings.svelte';

const SHOWN_MS = 1500;
/** Of a wheel, as much as one notch; a touchpad sends it in many small parts. */
const NOTCH_PX = 50;

class Zoom {
  /** What is said about it for a moment after a change. */
  note = $state.raw<string | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wheel = 0;

  to(zoom: number): void {
    if (zoom !== settings.current.appearance.zoom) {
      settings.change((all) => (all.appearance.zoom = zoom));
      // The program zooms the window as it keeps the settings.
      void settings.flush();
    }
    this.note = t('appearance.zoomed', { zoom: percent(zoom / 100, i18n.locale) });
    announcer.say(this.note);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.note = null), SHOWN_MS);
  }

  step(direction: 1 | -1): void {
    this.to(zoomStep(settings.current.appearance.zoom, direction));
  }

  reset(): void {
    this.to(ZOOM_DEFAULT);
  }

  /** Ctrl and the wheel. */
  wheel(event: WheelEvent): void {
    event.preventDefault();
    if (Math.sign(event.deltaY) !== Math.sign(this.#wheel)) this.#wheel = 0;
    this.#wheel += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * NOTCH_PX;
    if (Math.abs(this.#wheel) < NOTCH_PX) return;
    this.step(this.#wheel < 0 ? 1 : -1);
    this.#wheel = 0;
  }
}

export const zoom = new Zoom();
