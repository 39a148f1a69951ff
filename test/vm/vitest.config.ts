import { defineConfig } from 'vitest/config';

/** Tests with virtual machines but without containerd; root, QEMU and a guest (make guest) are needed. */
export default defineConfig({
  test: {
    include: ['test/vm/**/*.vm.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
