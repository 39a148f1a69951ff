import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { RuntimeError } from '../base/errors.ts';

describe('the loader', () => {
  afterEach(() => vi.unstubAllEnvs());

  /** A fresh copy, that has not loaded the addon yet. */
  const fresh = async (path: string) => {
    vi.stubEnv('BULKHEAD_ADDON', path);
    vi.resetModules();
    return import('./index.ts');
  };
  const messageOf = (load: () => unknown): string => {
    try {
      load();
    } catch (error) {
      expect((error as RuntimeError).name).toBe('RuntimeError');
      expect((error as RuntimeError).code).toBe(9);
      return (error as RuntimeError).message;
    }
    throw new Error('did not throw');
  };

  it('finds the build tree’s addon, once', async () => {
    const { addon, findAddon } = await fresh('');
    expect(findAddon()).toBe(join(import.meta.dirname, '../../build/native/addon.node'));
    expect(addon()).toBe(addon());
  });

  it('names a file that is missing, and what makes it', async () => {
    const { addon } = await fresh('/no/such/addon.node');
    expect(messageOf(addon)).toBe(
      'load addon: /no/such/addon.node: no such file; run `make native`, or `make install`',
    );
  });

  it('names a file that is no addon', async () => {
    const { addon } = await fresh('/etc/hostname');
    expect(messageOf(addon)).toMatch(/^load addon: \/etc\/hostname: /);
  });
});
