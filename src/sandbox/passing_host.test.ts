import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createLogger } from '../base/log.ts';
import { hostTree } from '../devices/host_tree.ts';
import { hostPassing, selftestOwner } from './passing_host.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-passing-host-'));
  mkdirSync(join(root, 'devices'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Of a function that no host has: undoing is removing the claim. */
function claim(owner: string): void {
  const bootId = hostTree().text('/proc/sys/kernel/random/boot_id');
  const change = { kind: 'pci-driver', address: 'ffff:00:00.0', to: 'vfio-pci', from: '', override: '' };
  const text = JSON.stringify({ version: 1, owner, bootId, change });
  writeFileSync(join(root, 'devices', 'pci-ffff:00:00.0.json'), text);
}

it.each([
  ['of a container that has a record', 'ns/web', true],
  ['of a container that has none', 'ns/gone', false],
  ['of a self-test that runs', selftestOwner(process.pid), true],
  ['of a self-test whose number another process has now', `selftest/${process.pid}-1`, false],
  ['of nobody', 'late', false],
])('recovery takes no claim away but that of whoever is gone: %s', async (_, owner, stays) => {
  claim(owner);
  const exists = (namespace: string, id: string): boolean => namespace === 'ns' && id === 'web';
  await hostPassing({ root, initPath: '', store: { exists }, log: createLogger(() => {}) }).recover();
  expect(readdirSync(join(root, 'devices'))).toHaveLength(stays ? 1 : 0);
});
