/** The steps of browsers, in percent. */
export const ZOOM_STEPS = [50, 67, 80, 90, 100, 110, 125, 150, 175, 200, 250, 300] as const;
export const ZOOM_DEFAULT = 100;

/** The next step up or down from `zoom`, which need not be one itself. */
export function zoomStep(zoom: number, direction: 1 | -1): number {
  const next = direction > 0 ? ZOOM_STEPS.find((step) => step > zoom) : ZOOM_STEPS.findLast((step) => step < zoom);
  return next ?? zoom;
}
