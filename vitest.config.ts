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
    // A deadline ends a test that hangs; the machine may be slow and busy.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 60_000 } },
    // Two cores: more workers only make timing tests noisier.
    maxWorkers: 2,
  },
});
