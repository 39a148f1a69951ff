import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { defaultSpec } from '../oci/spec.ts';
import { ParsedAhead, readBundle } from './bundle.ts';

let bundle: string;
beforeEach(() => {
  bundle = mkdtempSync(join(tmpdir(), 'bh-bundle-'));
});
afterEach(() => rmSync(bundle, { recursive: true }));

const configure = (hostname: string, into = bundle): void =>
  writeFileSync(join(into, 'config.json'), JSON.stringify({ ...defaultSpec(), hostname }));

it('takes what was parsed ahead, once', () => {
  configure('one');
  const ahead = new ParsedAhead();
  ahead.parse('x', bundle);
  const { spec, json } = readBundle('create', 'x', bundle, ahead);
  expect(spec.hostname).toBe('one');
  expect(ahead.take(bundle, json)).toBeUndefined();
  expect(readBundle('create', 'x', bundle, ahead).spec).toEqual(spec);
});

it('does not take what the file no longer says', () => {
  configure('one');
  const ahead = new ParsedAhead();
  ahead.parse('x', bundle);
  configure('two');
  expect(readBundle('create', 'x', bundle, ahead).spec.hostname).toBe('two');
});

it('leaves errors to the create', () => {
  const ahead = new ParsedAhead();
  ahead.parse('x', bundle);
  writeFileSync(join(bundle, 'config.json'), '{"ociVersion": 1}');
  ahead.parse('x', bundle);
  expect(() => readBundle('create', 'web', bundle, ahead)).toThrow(/^create web: config.json: ociVersion: /);
});

it('keeps the last sixteen', () => {
  configure('one');
  const ahead = new ParsedAhead();
  const { json } = readBundle('create', 'x', bundle);
  const bundles = Array.from({ length: 17 }, (_, n) => `${bundle}${'/.'.repeat(n)}`);
  for (const each of bundles) ahead.parse('x', each);
  expect(bundles.map((each) => ahead.take(each, json) !== undefined)).toEqual([
    false,
    ...Array<boolean>(16).fill(true),
  ]);
});
