import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { checkMemory } from './memory_checks.ts';
import { imageVolume, type HostImage, type Volume } from './storage.ts';

const info = { mode: 'fsdax' as const, dataOffset: 2 << 20, pages: 1, align: 2 << 20 };
const image: HostImage = { kind: 'file', size: 8 << 20, identity: 'i', inUse: false };
const volume = (changes: Partial<HostImage>, ...options: string[]): Volume => {
  const mount = { type: 'ext4', source: '/v', options };
  const found = imageVolume('c1', 'mount /d', mount, () => ({ ...image, ...changes }));
  if (found === undefined) throw new Error('no volume');
  return found;
};
const nvdimm = { info, sync: true, needsFlush: true };
const nothing = { emulated: false, functions: false };

describe('memory of the host', () => {
  it.each<[string, Volume, Partial<typeof nothing>]>([
    ['an NVDIMM on a real processor', volume(nvdimm), {}],
    ['an NVDIMM whose host keeps its caches', volume({ ...nvdimm, needsFlush: false }), { emulated: true }],
    ['an NVDIMM that is only read', volume(nvdimm, 'ro'), { emulated: true }],
    ['virtio-pmem, which is flushed by request', volume({}, 'dax'), { emulated: true }],
    ['a disk', volume({}), { emulated: true, functions: true }],
    ['device-DAX beside functions', volume({ ...nvdimm, kind: 'dax' }), { functions: true }],
  ])('is given: %s', (_what, wanted, facts) => {
    checkMemory('c1', [wanted], { ...nothing, ...facts });
  });

  it.each<[string, Volume, Partial<typeof nothing>, string]>([
    [
      'what an emulated processor does not flush',
      volume(nvdimm),
      { emulated: true },
      'create c1: PMEM volume /v: an emulated processor (TCG) does not write its caches back when it is told to; writes would not be durable; run the machine on KVM, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    ],
    ...([nvdimm, {}] as const).map((changes): [string, Volume, Partial<typeof nothing>, string] => [
      'a file beside functions',
      volume(changes, 'dax'),
      { functions: true },
      'create c1: PMEM volume /v: a machine with functions of the host holds all of its memory in place, which the kernel does not do with files; give device-DAX (/dev/dax…), or leave the option dax out',
    ]),
  ])('is refused: %s', (_what, wanted, facts, message) => {
    let thrown: unknown;
    try {
      checkMemory('c1', [volume({}), wanted], { ...nothing, ...facts });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: ErrorCode.FailedPrecondition, message });
  });
});
