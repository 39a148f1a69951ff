import { defineConfig } from 'vitest/config';

/** End-to-end tests: real containerds, one test file after the other, inside tools/private.sh. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.e2e.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    fileParallelism: false,
  },
});
