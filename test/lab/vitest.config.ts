import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/**
 * The tests of a lab sitting (tools/lab/sittings.ts), which names its files: its own, and of other suites those that
 * are worth another machine. Emulated, on a host that may be busy, everything takes long.
 */
export default defineConfig({
  test: {
    include: ['test/lab/**/*.lab.test.ts', 'test/e2e/**/*.e2e.test.ts', 'test/cli/**/*.cli.test.ts'],
    setupFiles: [join(import.meta.dirname, '../e2e/lib/failures.ts')],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    expect: { poll: { timeout: 60_000 } },
    fileParallelism: false,
  },
});
