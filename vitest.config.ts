import { defineConfig } from 'vitest/config';

/**
 * Everything that needs neither root nor containerd: unit tests beside the sources, golden bundles,
 * contract and property tests. End-to-end tests have their own configuration in test/e2e.
 */
export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts', 'tools/**/*.test.ts', 'bench/**/*.test.ts'],
    exclude: [
      '**/node_modules/**',
      'test/e2e/**/*.e2e.test.ts',
      'test/vm/**',
      'test/cli/**',
      'test/faults/**',
      'test/lab/**',
    ],
    testTimeout: 30_000,
    // Two cores: more workers only make timing tests noisier.
    maxWorkers: 2,
  },
});
