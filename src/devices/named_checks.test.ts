import { describe, expect, it } from 'vitest';
import type { FoundDevice } from './cdi/registry.ts';
import type { CdiSpec, ContainerEdits } from './cdi/types.ts';
import { checkNamed } from './named_checks.ts';
import { FakeTree } from './testing/fake_tree.ts';

const found = (kind: string, containerEdits: ContainerEdits, common?: ContainerEdits): FoundDevice => {
  const device = { name: '0', containerEdits };
  const spec: CdiSpec = {
    cdiVersion: '0.5.0',
    kind,
    devices: [device],
    ...(common && { containerEdits: common }),
  };
  return { file: { path: '/etc/cdi/x.json', priority: 0, spec }, device };
};
const failing = (code: string) => (): void => {
  throw Object.assign(new Error(code), { code });
};
const host = new FakeTree({
  '/proc/driver/nvidia/version':
    'NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 1 00:00:00 UTC 2026\n',
});
const input = { host, mapSync: () => {}, annotations: {}, wall: 'namespace' as const };
const mount = (path: string): ContainerEdits => ({ mounts: [{ hostPath: path, containerPath: '/pmem' }] });

describe('persistent memory behind the vm wall', () => {
  const device = found('bulkhead.io/pmem', mount('/mnt/p'));

  it('is no directory, unless what does not last is allowed', () => {
    const refusal = checkNamed([device], { ...input, wall: 'vm' });
    expect(refusal).toEqual({
      check: 'map-sync',
      sentence:
        'PMEM volume /mnt/p: MAP_SYNC not supported (a guest has a directory over virtio-fs, without DAX); writes would not be durable',
      fix: 'make a volume in it (bulkhead devices pmem format /mnt/p/VOLUME --size SIZE) and mount that with type ext4 and option dax, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    });
    const annotations = { 'bulkhead.io/allow-nonpersistent': 'true' };
    expect(checkNamed([device], { ...input, wall: 'vm', annotations })).toBeUndefined();
  });
});

describe('a GPU’s spec', () => {
  const library = (version: string): ContainerEdits => mount(`/usr/lib64/libcuda.so.${version}`);
  it('must be for the loaded driver', () => {
    const stale = found('nvidia.com/gpu', {}, library('550.54.14'));
    expect(checkNamed([stale], input)).toEqual({
      check: 'cdi-stale',
      sentence: 'CDI spec /etc/cdi/x.json is for driver 550.54.14 but 570.86.15 is loaded; regenerate',
      fix: 'bulkhead devices cdi generate --kind nvidia.com/gpu --output /etc/cdi/x.json',
    });
  });
  it.each<[string, FoundDevice]>([
    ['the same driver', found('nvidia.com/gpu', {}, library('570.86.15'))],
    ['a spec without libraries', found('nvidia.com/gpu', {})],
    ['another maker’s', found('amd.com/gpu', {}, library('550.54.14'))],
  ])('passes: %s', (_, device) => {
    expect(checkNamed([device], input)).toBeUndefined();
  });
  it('is not held against a driver that is not loaded', () => {
    const stale = found('nvidia.com/gpu', {}, library('550.54.14'));
    expect(checkNamed([stale], { ...input, host: new FakeTree({}) })).toBeUndefined();
  });
});

describe('persistent memory', () => {
  const device = found('bulkhead.io/pmem', mount('/mnt/p'));
  it.each(['EOPNOTSUPP', 'EINVAL', 'EISDIR'])('must be persistent: %s', (code) => {
    expect(checkNamed([device], { ...input, mapSync: failing(code) })).toEqual({
      check: 'map-sync',
      sentence:
        'PMEM volume /mnt/p: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
      fix: 'mount -o remount,dax=always /mnt/p, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    });
  });
  it('need not be when that is said', () => {
    const annotations = { 'bulkhead.io/allow-nonpersistent': 'true' };
    expect(checkNamed([device], { ...input, mapSync: failing('EOPNOTSUPP'), annotations })).toBeUndefined();
  });
  it.each(['EROFS', 'ENOENT'])('is not refused for what is no matter of durability: %s', (code) => {
    expect(checkNamed([device], { ...input, mapSync: failing(code) })).toBeUndefined();
  });
  it('passes when the kernel promises it, and only mounts are asked about', () => {
    expect(checkNamed([device], input)).toBeUndefined();
    const node = found('bulkhead.io/pmem', { deviceNodes: [{ path: '/dev/dax0.0' }] });
    expect(checkNamed([node], { ...input, mapSync: failing('EOPNOTSUPP') })).toBeUndefined();
  });
});
