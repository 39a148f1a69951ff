import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { FakeGuests } from '../../../test/fakes/machine.ts';
import { GuestAgent } from './agent.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it('kills are told ten times a second at most, each container’s by itself', () => {
  const guests = new FakeGuests();
  const agent = new GuestAgent(guests);
  const told: string[] = [];
  for (const id of ['a', 'b']) agent.watchOom(id, `/cg/${id}`, () => told.push(id));
  for (let kill = 0; kill < 10_000; kill++) guests.oom('/cg/a');
  guests.oom('/cg/b');
  guests.oom('/cg/c');
  expect(told).toEqual(['a', 'b']);
  vi.advanceTimersByTime(99);
  guests.oom('/cg/a');
  expect(told).toHaveLength(2);
  vi.advanceTimersByTime(1);
  guests.oom('/cg/a');
  expect(told).toEqual(['a', 'b', 'a']);
});
