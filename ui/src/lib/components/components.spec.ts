import { render, screen, within } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { tick } from 'svelte';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { useBackend } from '$lib/backend';
import { failure } from '$lib/backend/fake/failures';
import { createFake } from '$lib/backend/fake';
import { makePlan, MIXTRAL } from '$lib/backend/fake/models';
import { readOptions } from '$lib/backend/fake/options';
import { i18n } from '$lib/i18n/index.svelte';
import { announcer } from '$lib/state/announcer.svelte';
import { models } from '$lib/state/models.svelte';
import { settings } from '$lib/state/settings.svelte';
import ErrorNote from './common/ErrorNote.svelte';
import MemoryBar from './models/MemoryBar.svelte';
import OffloadSection from './settings/OffloadSection.svelte';
import SamplingSection from './settings/SamplingSection.svelte';
import SliderField from './settings/SliderField.svelte';

async function start(params = ''): Promise<void> {
  useBackend(createFake(new URLSearchParams(params)));
  i18n.use('en');
  await settings.load();
  await models.start();
}

beforeEach(() => start());

describe('a number with a slider', () => {
  const field = (props: Partial<Parameters<typeof render<typeof SliderField>>[1]> = {}) => {
    const onchange = vi.fn();
    render(SliderField, { label: 'Top-p', value: 0.95, fallback: 0.95, min: 0, max: 1, step: 0.01, digits: 2, onchange, ...props });
    return onchange;
  };

  it('takes what is typed, with a comma too, and keeps it in range', async () => {
    const onchange = field();
    const input = screen.getByRole('textbox', { name: 'Top-p' });
    await userEvent.clear(input);
    await userEvent.type(input, '0,5{Enter}');
    expect(onchange).toHaveBeenLastCalledWith(0.5);
    await userEvent.clear(input);
    await userEvent.type(input, '7{Enter}');
    expect(onchange).toHaveBeenLastCalledWith(1);
  });

  it('leaves the value alone when no number was typed', async () => {
    const onchange = field();
    const input = screen.getByRole('textbox', { name: 'Top-p' });
    await userEvent.clear(input);
    await userEvent.type(input, 'much');
    expect(input).toHaveAttribute('aria-invalid', 'true');
    await userEvent.tab();
    expect(onchange).not.toHaveBeenCalled();
  });

  it('moves with the arrow keys', async () => {
    const onchange = field();
    screen.getByRole('slider', { name: 'Top-p' }).focus();
    await userEvent.keyboard('{ArrowLeft}');
    expect(onchange).toHaveBeenLastCalledWith(expect.closeTo(0.94, 6));
  });

  it('offers its default only where it differs', async () => {
    const onchange = field({ value: 0.5 });
    await userEvent.click(screen.getByRole('button', { name: 'Reset Top-p to 0.95' }));
    expect(onchange).toHaveBeenLastCalledWith(0.95);
    expect(screen.getByRole('textbox', { name: 'Top-p' })).toHaveFocus();
  });

  // "8,192" was read as 8.192, and became the least there is.
  it('reads marks between thousands where there are no decimals', async () => {
    const onchange = field({ value: 8192, fallback: null, min: 512, max: 32768, step: 512, digits: 0 });
    const input = screen.getByRole('textbox', { name: 'Top-p' });
    expect(input).toHaveValue('8192');
    await userEvent.clear(input);
    await userEvent.type(input, '16,384{Enter}');
    expect(onchange).toHaveBeenLastCalledWith(16384);
  });

  // The slider reported the step next to an automatic 11.4 as a change, which set a budget nobody had asked for.
  it('changes nothing by being shown', () => {
    const onchange = field({ value: null, automatic: 11.4, fallback: null, min: 1, max: 12, step: 0.5 });
    expect(onchange).not.toHaveBeenCalled();
  });

  it('says why it cannot be used', () => {
    field({ problem: 'There is no GPU' });
    expect(screen.getByRole('textbox', { name: 'Top-p' })).toBeDisabled();
    expect(screen.getByText('There is no GPU')).toBeVisible();
  });
});

describe('the sampling settings', () => {
  it('add and remove stop strings', async () => {
    render(SamplingSection);
    const input = screen.getByLabelText('Stop strings');
    await userEvent.type(input, 'END{Enter}');
    await userEvent.type(input, '\\n\\n{Enter}');
    await userEvent.type(input, 'END{Enter}');
    expect(settings.current.sampling.stop).toEqual(['END', '\n\n']);
    await userEvent.click(screen.getByRole('button', { name: 'Remove “END”' }));
    expect(settings.current.sampling.stop).toEqual(['\n\n']);
  });

  it('say the range when they take something else than what was typed', async () => {
    render(SamplingSection);
    const input = screen.getByRole('textbox', { name: 'Temperature' });
    for (const typed of ['9', 'abc']) {
      await userEvent.clear(input);
      expect(screen.queryByText('A number from 0.00 to 2.00')).toBeNull();
      await userEvent.type(input, `${typed}{Enter}`);
      expect(screen.getByText('A number from 0.00 to 2.00')).toBeVisible();
      expect(input).toHaveAccessibleDescription('A number from 0.00 to 2.00');
      expect(announcer.lines.at(-1)?.text).toBe('Temperature: A number from 0.00 to 2.00');
      expect(settings.current.sampling.temperature).toBe(2);
    }
    settings.change((all) => (all.sampling.temperature = 1));
    expect(await screen.findByText('Higher values vary more. 0: always the most likely token.')).toBeVisible();
    expect(screen.queryByText('A number from 0.00 to 2.00')).toBeNull();
  });

  it('let an answer be as long as the context', async () => {
    useBackend(createFake(new URLSearchParams('model=none')));
    await models.start();
    render(SamplingSection);
    await userEvent.type(screen.getByRole('textbox', { name: 'Max tokens' }), '20000{Enter}');
    expect(settings.current.sampling.maxTokens).toBe(20000);
  });

  it('refuse a seed that is no number and say so', async () => {
    render(SamplingSection);
    const seed = screen.getByRole('textbox', { name: 'Seed' });
    await userEvent.type(seed, '12x');
    expect(screen.getByText('A seed must be a whole number')).toBeVisible();
    await userEvent.tab();
    expect(settings.current.sampling.seed).toBeNull();
    await userEvent.clear(seed);
    await userEvent.type(seed, '18446744073709551615');
    await userEvent.tab();
    expect(settings.current.sampling.seed).toBe('18446744073709551615');
  });

  // Without a limit the slider stands at its end, which was read out as 4,096 tokens.
  it('say what an end of a slider means, in the language of the window', async () => {
    const said = (name: string) => screen.getByRole('slider', { name }).getAttribute('aria-valuetext');
    const change = async (sampling: Partial<typeof settings.current.sampling>) => {
      settings.change((all) => Object.assign(all.sampling, sampling));
      await tick();
    };
    render(SamplingSection);
    expect(said('Max tokens')).toBe('no limit');
    expect(said('Temperature')).toBe('0.70');
    expect(said('Top-p')).toBe('0.95');
    expect(said('Top-k')).toBe('0, no limit');
    expect(said('Min-p')).toBe('0.00, off');
    expect(said('Repetition penalty')).toBe('1.00, off');
    await change({ maxTokens: 4096, temperature: 0, topP: 1, topK: 40, minP: 0.05, repetitionPenalty: 1.1 });
    expect(said('Max tokens')).toBe('4,096');
    expect(said('Temperature')).toBe('0.00, always the most likely token');
    expect(said('Top-p')).toBe('1.00, off');
    expect(said('Top-k')).toBe('40');
    expect(said('Min-p')).toBe('0.05');
    expect(said('Repetition penalty')).toBe('1.10');
    i18n.use('de');
    await change({ maxTokens: null, topK: 0, minP: 0 });
    expect(said('Höchstlänge')).toBe('unbegrenzt');
    expect(said('Temperatur')).toBe('0,00, immer das wahrscheinlichste Token');
    expect(said('Top-p')).toBe('1,00, aus');
    expect(said('Top-k')).toBe('0, unbegrenzt');
    expect(said('Min-p')).toBe('0,00, aus');
  });

  it('know a preset by its values', async () => {
    render(SamplingSection);
    expect(screen.getByRole('combobox', { name: 'Preset: Balanced' })).toBeVisible();
    settings.change((all) => (all.sampling.temperature = 1.3));
    expect(await screen.findByRole('combobox', { name: 'Preset: Custom' })).toBeVisible();
  });
});

describe('the offload settings', () => {
  it('plan what would be taken and offer the reload', async () => {
    render(OffloadSection);
    expect(await screen.findByText('The model is loaded with these settings.')).toBeVisible();
    expect(await screen.findByRole('img', { name: /GPU memory/ })).toBeVisible();
    settings.change((all) => (all.offload.expertsPerLayerOnGpu = 2));
    expect(await screen.findByRole('button', { name: 'Reload with these settings' })).toBeVisible();
    await vi.waitFor(() => expect(screen.getByRole('img', { name: /GPU memory/ }).getAttribute('aria-label')).toMatch(/7\.1/));
  });

  it('say what is chosen automatically, and when nothing is', async () => {
    const said = (name: string) => screen.getByRole('slider', { name }).getAttribute('aria-valuetext');
    render(OffloadSection);
    expect(said('Context length')).toBe('Auto');
    expect(said('Threads')).toMatch(/^auto \d+$/);
    await vi.waitFor(() => expect(said('Context length')).toBe('auto 8,192'));
    expect(said('Prefetch')).toBe('auto 2');
    settings.change((all) => Object.assign(all.offload, { prefetch: 0, contextLength: 4096 }));
    await tick();
    expect(said('Prefetch')).toBe('0, off');
    expect(said('Context length')).toBe('4,096');
  });

  it('say why the settings of a GPU do nothing', async () => {
    await start('gpu=0');
    render(OffloadSection);
    expect(screen.getByRole('slider', { name: 'Experts per layer on the GPU' })).toHaveAttribute('aria-disabled', 'true');
    expect(screen.getByText(/No NVIDIA driver was found/)).toHaveTextContent(/^No GPU is used: No NVIDIA driver was found/);
    expect(screen.queryByRole('slider', { name: 'VRAM budget' })).toBeNull();
    expect(screen.getByRole('radio', { name: '16 GB' })).toBeDisabled();
  });
});

describe('a bar of memory', () => {
  it('names its parts in the language of the window and says when it is too much', () => {
    i18n.use('de');
    const plan = makePlan(MIXTRAL, { ...settings.defaults.offload, expertsPerLayerOnGpu: 8 }, readOptions(new URLSearchParams()));
    if (!plan.gpu) throw new Error('the fake has a GPU');
    render(MemoryBar, { label: 'GPU', memory: plan.gpu });
    expect(within(screen.getByRole('list')).getByText(/Experten/)).toBeVisible();
    expect(screen.getByText(/über der Grenze/)).toBeVisible();
  });
});

describe('an error', () => {
  it('says what happened, why, and what to do next', () => {
    render(ErrorNote, { error: failure('tooBig') });
    const alert = screen.getByRole('alert');
    expect(alert).toHaveTextContent('There is not enough memory.');
    expect(alert).toHaveTextContent('18.9 GB');
    expect(alert).toHaveTextContent('Lower the context length to 4,096');
  });

  it('about memory names the settings that help, in the language of the window', () => {
    i18n.use('de');
    render(ErrorNote, { error: failure('tooBig') });
    const alert = screen.getByRole('alert');
    expect(alert).toHaveTextContent('Das Modell braucht 18,9 GB RAM, 6,5 GB mehr als die Grenze von 12,4 GB.');
    expect(alert).toHaveTextContent('Verringere die Kontextlänge auf 4.096 oder lade es trotzdem.');
    expect(alert.querySelector('[lang=en]')).toBeNull();
  });
});
