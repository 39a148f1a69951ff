/**
 * `bulkhead devices --json` of whole machines, as files of a directory: what the same tables give in memory
 * (test/devices), to the byte.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FakeEntry, FakeFiles } from '../../src/devices/testing/fake_tree.ts';
import { machines } from '../devices/machines.ts';
import { quote } from '../e2e/lib/exec.ts';
import { Cli, isRunc } from './lib/cli.ts';

const cli = new Cli();
beforeAll(() => cli.prepare());
afterAll(() => cli.destroy());

/** A spec in /etc/cdi is not below a host's root, claims are looked for in this test's state root, and no file is ever stuck. */
const elsewhere = ['stale-cdi-spec', 'claimed', 'dying-devices'];
const golden = join(import.meta.dirname, '..', 'devices', 'golden');

function make(root: string, files: FakeFiles): void {
  const nodes: string[] = [];
  for (const [path, entry] of Object.entries(files)) {
    const at = join(root, path);
    mkdirSync(dirname(at), { recursive: true });
    if (typeof entry === 'string') writeFileSync(at, entry);
    else if ('link' in entry && entry.link !== undefined) link(root, path, entry.link, files);
    else if ('node' in entry && entry.node !== undefined) nodes.push(mknod(at, entry.node));
    else mkdirSync(at, { recursive: true });
  }
  if (nodes.length > 0) execFileSync('sh', ['-ec', nodes.join('\n')]);
}

/** A link within sysfs leads somewhere. */
function link(root: string, path: string, target: string, files: Record<string, FakeEntry>): void {
  const leads = posix.resolve(posix.dirname(path), target);
  if (!target.startsWith('/') && files[leads] === undefined)
    mkdirSync(join(root, leads), { recursive: true });
  symlinkSync(target, join(root, path));
}

const mknod = (at: string, node: string): string =>
  `mknod ${quote(at)} ${node.replace(/^(.) (\d+):(\d+)$/, '$1 $2 $3')}`;

// How interrupts are remapped is told in files of x86.
describe.skipIf(isRunc || process.arch !== 'x64')('a machine of files', () => {
  it.each(Object.keys(machines).filter((name) => !elsewhere.includes(name)))('%s', async (name) => {
    const root = join(cli.dir, `host-${name}`);
    mkdirSync(root);
    make(root, machines[name] ?? {});
    const specs = join(cli.dir, 'none');
    const report = await cli.ok('devices', '--json', '--host-root', root, '--cdi-spec-dir', specs);
    expect(report).toBe(readFileSync(join(golden, `${name}.json`), 'utf8'));
    expect(existsSync(specs)).toBe(false);
  });
});
