import { defineConfig } from 'vitest/config';

/**
 * What is left behind when something fails, dies or is hostile: nothing. As root, inside tools/private.sh, whose PID
 * and mount namespaces make every process and every mount that is left over visible.
 */
export default defineConfig({
  test: {
    include: ['test/faults/**/*.faults.test.ts'],
    testTimeout: 300_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
    fileParallelism: false,
    // Descriptors of the test's own process are counted: worker threads would share them with the runner.
    pool: 'forks',
  },
});
