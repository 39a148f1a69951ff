import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** The tree under test. */
export const root = join(import.meta.dirname, '..', '..', '..');

/** What the set-up unpacked beside the system: newer containerds, Node 24. */
export const peers = join(root, 'build', 'peers');

/** The installation under test: `make install PREFIX=…`. BULKHEAD_TEST_PREFIX names another (Node 24's). */
export const prefix = process.env.BULKHEAD_TEST_PREFIX ?? join(root, 'build', 'prefix');

/** Images made once for all runs. */
export const imageDir = join(root, 'build', 'test-images');

/**
 * The scratch directory of this run, made by tools/private.sh. Its base name, such as `bh-x1y2z3`, starts the name of
 * every cgroup and containerd namespace of the run.
 */
export const scratch = (): string => {
  const dir = process.env.BULKHEAD_TEST_DIR;
  if (dir === undefined || !existsSync(dir)) {
    throw new Error(
      'end-to-end tests run inside tools/private.sh: use `make test-e2e` or `node tools/test.mjs e2e`',
    );
  }
  return dir;
};

/** The runtime under test. The whole suite also passes on io.containerd.runc.v2, which proves the tests. */
export const runtime = process.env.BULKHEAD_TEST_RUNTIME ?? 'io.containerd.bulkhead.v2';

/** Guest kernel, initrd and templates: made once for all runs. */
export const guestCache = process.env.BULKHEAD_TEST_GUEST_CACHE ?? join(root, 'build', 'guest-cache');

/** True when containers run in virtual machines, which are slower to start and have pids of their own. */
export const isVm = runtime.includes('-vm.');

/** True when the runtime under test is ours; tests of what only Bulkhead promises ask this. */
export const isBulkhead = runtime.includes('bulkhead');
