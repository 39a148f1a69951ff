import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/** End-to-end tests: real containerds, one test file after the other, inside tools/private.sh. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.e2e.test.ts'],
    setupFiles: [join(import.meta.dirname, 'lib/failures.ts')],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    expect: { poll: { timeout: 60_000 } },
    fileParallelism: false,
  },
});
