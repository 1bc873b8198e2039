import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { flushAll, Keeper } from './unsaved';

describe('what is typed', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  let text = '';
  const written: string[] = [];
  const make = (write: (value: string) => Promise<unknown> = async (value) => written.push(value)) => {
    written.length = 0;
    return new Keeper(() => {
      const value = text;
      return () => write(value);
    });
  };

  it('is written once, a moment after the last key', async () => {
    const keeper = make();
    for (text of ['a', 'ab', 'abc']) keeper.changed();
    await vi.advanceTimersByTimeAsync(399);
    expect(written).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(written).toEqual(['abc']);
    await vi.advanceTimersByTimeAsync(5000);
    expect(written).toEqual(['abc']);
  });

  it('is written at once when all is put down, and is there when that is done', async () => {
    const keeper = make(async (value) => {
      await new Promise((done) => setTimeout(done, 50));
      written.push(value);
    });
    text = 'half a sent';
    keeper.changed();
    let isDone = false;
    void flushAll().then(() => (isDone = true));
    await vi.advanceTimersByTimeAsync(49);
    expect([written, isDone]).toEqual([[], false]);
    await vi.advanceTimersByTimeAsync(1);
    expect([written, isDone]).toEqual([['half a sent'], true]);
  });

  // A write that took longer than the next one brought the older text back.
  it('is written in the order in which it was typed', async () => {
    const took = [100, 1];
    const keeper = make(async (value) => {
      await new Promise((done) => setTimeout(done, took.shift()));
      written.push(value);
    });
    text = 'older';
    keeper.changed();
    void keeper.flush();
    text = 'newer';
    keeper.changed();
    void keeper.flush();
    await vi.advanceTimersByTimeAsync(200);
    expect(written).toEqual(['older', 'newer']);
  });

  it('is tried again after a failure', async () => {
    let isFull = true;
    const keeper = make(async (value) => {
      if (isFull) throw new Error('the disk is full');
      written.push(value);
    });
    text = 'kept';
    keeper.changed();
    await keeper.flush();
    expect([written, keeper.isDirty]).toEqual([[], true]);
    isFull = false;
    await flushAll();
    expect(written).toEqual(['kept']);
  });
});
