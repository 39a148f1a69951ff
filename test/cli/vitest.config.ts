import { defineConfig } from 'vitest/config';

/** The command line's contract, inside tools/private.sh. What is shared with runc also runs on runc, which proves it. */
export default defineConfig({
  test: {
    root: import.meta.dirname,
    include: ['**/*.cli.test.ts'],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    expect: { poll: { timeout: 60_000 } },
    fileParallelism: false,
  },
});
