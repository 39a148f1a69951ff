import { defineConfig } from 'vitest/config';

/**
 * The tests of a lab sitting (tools/lab/sittings.ts), which names its files: its own, and of other suites those that
 * are worth another machine. Emulated, on a host that may be busy, everything takes long.
 */
export default defineConfig({
  test: {
    include: ['test/lab/**/*.lab.test.ts', 'test/e2e/**/*.e2e.test.ts', 'test/cli/**/*.cli.test.ts'],
    testTimeout: 240_000,
    hookTimeout: 240_000,
    fileParallelism: false,
  },
});
