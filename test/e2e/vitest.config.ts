import { defineConfig } from 'vitest/config';

/** Virtual machines are emulated where the processor's own virtualization cannot be used. */
const patience = (process.env.BULKHEAD_TEST_RUNTIME ?? '').includes('-vm.') ? 3 : 1;

/** End-to-end tests: real containerds, one test file after the other, inside tools/private.sh. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.e2e.test.ts'],
    testTimeout: 60_000 * patience,
    hookTimeout: 60_000 * patience,
    fileParallelism: false,
  },
});
