import { describe, expect, it } from 'vitest';
import { HERMES, MIXTRAL } from '$lib/backend/fake/models';
import { tellApart } from './names';

const named = (id: string, change: Partial<typeof MIXTRAL>) => ({ ...MIXTRAL, id, name: 'Mixtral', ...change });

describe('models of one name', () => {
  it('are told apart by their quantization, where that differs', () => {
    const three = { quantization: HERMES.quantization };
    const marks = tellApart([named('a', {}), named('b', { name: 'mixtral ', ...three }), HERMES]);
    expect(marks.get('a')).toBe('2-bit experts, 4-bit attention');
    expect(marks.get('b')).toBe('3-bit experts, 4-bit attention');
    expect(marks.has(HERMES.id)).toBe(false);
  });

  it('are told apart by their owner, else by their folder, as much of it as it takes', () => {
    const hub = [named('ada/m', { kind: 'hub', path: '/x/1' }), named('bob/m', { kind: 'hub', path: '/x/2' })];
    expect([...tellApart(hub).values()]).toEqual(['ada', 'bob']);
    const linked = [named('a', { path: '/home/ada/one' }), named('b', { path: 'C:\\models\\two' })];
    expect([...tellApart(linked).values()]).toEqual(['one', 'two']);
    const deep = [named('a', { path: '/home/ada/m' }), named('b', { path: '/home/bob/m' })];
    expect([...tellApart(deep).values()]).toEqual(['ada/m', 'bob/m']);
    const deeper = [named('a', { path: '/1/x/m' }), named('b', { path: '/2/x/m' })];
    expect([...tellApart(deeper).values()]).toEqual(['/1/x/m', '/2/x/m']);
  });
});
