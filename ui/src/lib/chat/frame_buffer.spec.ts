import { describe, expect, it } from 'vitest';
import { FrameBuffer } from './frame_buffer';

function set() {
  const applied: string[] = [];
  const frames: (() => void)[] = [];
  const cancelled: number[] = [];
  const buffer = new FrameBuffer<number>(
    ({ text, latest }) => applied.push(`${text}@${latest}`),
    (callback) => frames.push(callback),
    (handle) => cancelled.push(handle)
  );
  return { applied, frames, cancelled, buffer };
}

describe('the frame buffer', () => {
  it('hands on all that came within a frame as one, with the newest figures', () => {
    const { applied, frames, buffer } = set();
    buffer.push('a', 1);
    buffer.push('b', 2);
    buffer.push('c', 3);
    expect(applied).toEqual([]);
    expect(frames).toHaveLength(1);
    frames[0]?.();
    expect(applied).toEqual(['abc@3']);
  });

  it('asks for another frame only when there is more', () => {
    const { frames, buffer } = set();
    buffer.push('a', 1);
    frames[0]?.();
    expect(frames).toHaveLength(1);
    buffer.push('b', 2);
    expect(frames).toHaveLength(2);
  });

  it('loses nothing when it is flushed before the frame comes', () => {
    const { applied, frames, cancelled, buffer } = set();
    buffer.push('end', 9);
    buffer.flush();
    frames[0]?.();
    expect(applied).toEqual(['end@9']);
    expect(cancelled).toHaveLength(1);
  });
});
