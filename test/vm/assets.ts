/** The guest that the tests boot: the one that `make guest` has built, with the agent of this tree. */
import { join, resolve } from 'node:path';
import { findGuest, type Guest } from '../../src/guest/index.ts';

const ROOT = resolve(import.meta.dirname, '../..');

export function guestAssets(): Guest {
  return findGuest({
    cache: process.env.BULKHEAD_TEST_GUEST_CACHE ?? join(ROOT, 'build/guest-cache'),
    program: (name) => join(ROOT, 'build/native', name),
  });
}
