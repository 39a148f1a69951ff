import { defineConfig } from 'vitest/config';

/** Tests with virtual machines but without containerd; root, QEMU and a guest (make guest) are needed. */
export default defineConfig({
  test: {
    include: ['test/vm/**/*.vm.test.ts'],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    expect: { poll: { timeout: 60_000 } },
    fileParallelism: false,
  },
});
