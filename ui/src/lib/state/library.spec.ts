import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { backend, useBackend } from '$lib/backend';
import { createFake } from '$lib/backend/fake';
import { CATALOGUE, REPO } from '$lib/backend/fake/offers';
import { i18n } from '$lib/i18n/index.svelte';
import { library } from './library.svelte';
import { models } from './models.svelte';
import { router } from './route.svelte';
import { settings } from './settings.svelte';
import { toasts } from './toasts.svelte';

async function start(params = ''): Promise<void> {
  useBackend(createFake(new URLSearchParams(`model=none&loadMs=50&${params}`)));
  i18n.use('en');
  await settings.load();
  await models.start();
  Object.assign(library, { state: null, offers: [] });
  library.problems.clear();
  library.reports.clear();
  await library.start();
  await library.readOffers();
  for (const toast of toasts.list) toasts.dismiss(toast.id);
}

const stateOf = (repo: string) => library.state?.downloads.find((download) => download.repo === repo)?.state.kind;
const until = (check: () => void) => vi.waitFor(check, { timeout: 8000, interval: 20 });

beforeEach(() => start('downloadMs=800'));
// What is left of a test would go on telling the next one.
afterEach(async () => {
  for (const { repo } of library.state?.downloads ?? []) await library.cancel(repo);
});

describe('a download', () => {
  it('ends among the models, and is offered to be loaded', async () => {
    expect(library.available.map((offer) => offer.repo)).toContain(REPO);
    await library.download(REPO);
    expect(library.available.map((offer) => offer.repo)).not.toContain(REPO);
    expect(library.share).toBe(0);
    await until(() => expect(toasts.list.map((toast) => toast.text)).toEqual(['Mixtral 8x7B Instruct, offloading demo downloaded']));
    expect(models.entries.map((entry) => entry.id)).toContain(REPO);
    expect(library.share).toBeNull();
    toasts.list[0]?.action?.run();
    await until(() => expect(models.state.type === 'ready' && models.state.model.id).toBe(REPO));
  });

  it('is not offered to be loaded once it was deleted', async () => {
    await library.download(REPO);
    await until(() => expect(toasts.list.map(({ action }) => action?.label)).toEqual(['Load']));
    await library.remove(models.entries.find(({ id }) => id === REPO) ?? expect.fail('it was downloaded'));
    expect(toasts.list).toEqual([]);
  });

  it('that has arrived elsewhere is marked until the models are shown, or it is loaded', async () => {
    const arrive = async () => {
      await start('downloadMs=400');
      await library.download(REPO);
      await until(() => expect(library.underWay.has(REPO)).toBe(false));
      await until(() => expect(toasts.list).toHaveLength(1));
    };
    router.chat(null);
    await arrive();
    expect(library.hasArrived).toBe(true);
    library.noteSeen();
    expect(library.hasArrived).toBe(false);
    await arrive();
    expect(library.hasArrived).toBe(true);
    await models.load(REPO);
    expect(library.hasArrived).toBe(false);
    router.go({ name: 'models' });
    await arrive();
    expect(library.hasArrived).toBe(false);
    router.chat(null);
  });

  it('that is cancelled is offered again, and is not said to have arrived', async () => {
    await library.download(REPO);
    await until(() => expect(stateOf(REPO)).toBe('running'));
    await library.cancel(REPO);
    expect(library.available.map((offer) => offer.repo)).toContain(REPO);
    await library.remove(models.entries[2] ?? expect.fail('the fake has three models'));
    await until(() => expect(models.entries).toHaveLength(2));
    expect(toasts.list).toEqual([]);
  });

  it('that is paused counts in no share', async () => {
    await start('downloads=paused,running');
    expect(library.share).toBeCloseTo(0.41);
    await library.pause(CATALOGUE[1]?.repo ?? '');
    expect(library.share).toBeNull();
  });

  it('keeps lists the same while only bytes change', async () => {
    await start('downloadMs=5000');
    await library.download(REPO);
    await until(() => expect(library.state?.downloads[0]?.doneBytes).toBeGreaterThan(0));
    const { available, underWay } = library;
    const before = library.state?.downloads[0]?.doneBytes ?? 0;
    await until(() => expect(library.state?.downloads[0]?.doneBytes).toBeGreaterThan(before));
    expect(library.available).toBe(available);
    expect(library.underWay).toBe(underWay);
  });
});

describe('what fails', () => {
  it('is kept beside what was tried, until it is tried again', async () => {
    await start('disk=small');
    await library.download(REPO);
    expect(library.problems.get(`offer ${REPO}`)?.kind).toBe('diskFull');
    expect(library.problems.size).toBe(1);
    useBackend(createFake(new URLSearchParams('model=none')));
    await library.download(REPO);
    expect(library.problems.size).toBe(0);
  });

  it('is not shown where it was cancelled by a person', async () => {
    await start('taskMs=2000');
    const verifying = library.verify(models.entries[1] ?? expect.fail('the fake has three models'));
    await until(() => expect(library.taskOf('verify', 'mixtral')).toBeDefined());
    await backend.cancelTask(library.taskOf('verify', 'mixtral')?.id ?? 0);
    await verifying;
    expect(library.problems.size).toBe(0);
    expect(library.reports.size).toBe(0);
  });

  it('leaves the demo usable where there is no library', async () => {
    await start('fail=modelsState:network&fail=listOffers:network');
    expect(library.problems.get('offers')?.kind).toBe('network');
    expect(library.available).toEqual([]);
    await models.load('demo');
    expect(models.state.type).toBe('ready');
  });
});
