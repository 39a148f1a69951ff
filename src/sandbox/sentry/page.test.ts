import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { systemCallPage } from './page.ts';

describe('docs/sentry-syscalls.md', () => {
  it('is what the table says (node tools/run.mjs tools/sentry-page.ts writes it)', () => {
    const page = readFileSync(join(import.meta.dirname, '../../../docs/sentry-syscalls.md'), 'utf8');
    expect(page).toBe(systemCallPage());
  });
});
