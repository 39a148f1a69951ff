/**
 * Golden plans: every case compiles to exactly `plan.golden.json`, or fails with exactly the text in `error.txt`.
 * UPDATE_GOLDEN=1 writes them anew; the difference is then for the reviewer.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { RuntimeError } from '../../src/base/errors.ts';
import { decodePlan, encodePlan } from '../../src/plan/encode.ts';
import { describeStep, planToJson } from '../../src/plan/print.ts';
import { caseNames, compileCase } from './cases.ts';

const update = process.env['UPDATE_GOLDEN'] === '1';

/** One step a line, in words and as data, so that a difference reads well. */
function golden(name: string): { plan?: string; error?: string } {
  try {
    const { plan, warnings } = compileCase(name);
    const { steps = [], ...head } = planToJson(plan) as { steps?: unknown[] };
    const lines = steps.map((step, index) => {
      const words = describeStep(plan.steps?.[index] ?? {});
      return `    ${JSON.stringify([words, step])}`;
    });
    const text = [
      '{',
      `  "plan": ${JSON.stringify(head)},`,
      `  "warnings": ${JSON.stringify(warnings)},`,
      '  "steps": [',
      lines.join(',\n'),
      '  ]',
      '}',
    ];
    return { plan: `${text.join('\n')}\n` };
  } catch (error) {
    if (error instanceof RuntimeError) return { error: `${error.code} ${error.message}\n` };
    throw error;
  }
}

function compare(name: string, file: string, text: string | undefined): void {
  const path = join(import.meta.dirname, name, file);
  if (update) {
    if (text === undefined) rmSync(path, { force: true });
    else writeFileSync(path, text);
    return;
  }
  expect(existsSync(path) ? readFileSync(path, 'utf8') : undefined).toBe(text);
}

describe('launch plans of bundles', () => {
  it('has the cases that the design asks for', () => {
    expect(caseNames.filter((name) => !name.startsWith('error-')).length).toBeGreaterThanOrEqual(24);
  });

  it.each(caseNames)('%s', (name) => {
    const result = golden(name);
    expect(result.error !== undefined).toBe(name.startsWith('error-'));
    compare(name, 'plan.golden.json', result.plan);
    compare(name, 'error.txt', result.error);
  });

  it.each(caseNames.filter((name) => !name.startsWith('error-')))('%s survives encoding', (name) => {
    const { plan } = compileCase(name);
    const bytes = encodePlan(plan);
    // Decoding and encoding again gives the same bytes: nothing was lost or changed.
    expect(Buffer.from(encodePlan(decodePlan(bytes))).equals(bytes)).toBe(true);
    expect(decodePlan(bytes).steps?.length).toBe(plan.steps?.length);
  });
});
