import { describe, expect, it } from 'vitest';
import type { LinuxDevice, Spec } from '../../oci/types.ts';
import type { HostDevice } from './images.ts';
import { wantedNodes, withGuestNodes } from './nodes.ts';
import { canUnplug, volumeDevice, type HostImage } from './storage.ts';

const MIB = 1 << 20;
const block: HostImage = { kind: 'block', size: MIB, identity: 'block 259:1', inUse: false };
const info = { mode: 'devdax' as const, dataOffset: 2 * MIB, pages: 1, align: 2 * MIB };
const dax: HostImage = { kind: 'dax', size: 8 * MIB, align: 2 * MIB, identity: 'dax 1', inUse: false, info };
const node = (path: string, type: 'b' | 'c', minor: number): LinuxDevice => {
  return { path, type, major: 259, minor, fileMode: 0o640, uid: 7 };
};
const wanted = (path: string, image: HostImage): ReturnType<typeof wantedNodes> =>
  wantedNodes('c1', [node(path, image.kind === 'dax' ? 'c' : 'b', 1)], () => ({
    source: `/host${path}`,
    image,
  }));

describe('a node of the host', () => {
  it('is a disk', () => {
    const [first] = wanted('/dev/data', block);
    const device = volumeDevice(first!.volume);
    expect(device).toMatchObject({ kind: 'block', path: '/host/dev/data', readOnly: false });
    expect(device.id).toMatch(/^dw[0-9a-f]{16}$/);
    expect(canUnplug(device.id)).toBe(true);
  });

  it('is an NVDIMM, of the device’s own alignment', () => {
    const gib = 1 << 30;
    const [first] = wanted('/dev/dax', { ...dax, size: 2 * gib, align: gib });
    expect(volumeDevice(first!.volume)).toMatchObject({
      kind: 'nvdimm',
      size: 2 * gib,
      align: gib,
      readOnly: false,
      // There is nothing but the device: no file's blocks that MAP_SYNC would be for.
      sync: false,
    });
    expect(first!.volume).toMatchObject({ holdable: true });
    expect(canUnplug(first!.volume.device)).toBe(false);
  });

  it('is left out when it is none of these', () => {
    const found: HostDevice = { source: '/dev/x', image: block };
    const nodes = [node('/dev/fuse', 'c', 2), node('/dev/x', 'b', 3)];
    const some = wantedNodes('c1', nodes, ({ minor }) => (minor === 3 ? found : undefined));
    expect(some.map((each) => each.node.path)).toEqual(['/dev/x']);
  });

  it.each<[string, HostImage, string]>([
    [
      'a disk that is mounted',
      { ...block, inUse: true },
      'create c1: device /dev/d: the host uses this block device; unmount it on the host',
    ],
    [
      'device-DAX as it is',
      { ...dax, info: undefined },
      'create c1: device /dev/d: does not begin as device-DAX of a guest does, and would be memory without DAX there; prepare it with: bulkhead devices pmem format --mode devdax /host/dev/d (this erases it), or use the namespace wall',
    ],
    [
      'device-DAX with a file system',
      { ...dax, info: { ...info, mode: 'fsdax' } },
      'create c1: device /dev/d: begins as persistent memory with a file system does; mount it: type ext4, source /host/dev/d, option dax',
    ],
    [
      'an odd size',
      { ...dax, size: 3 * MIB },
      'create c1: device /dev/d: its size of 3145728 bytes is no multiple of 2 MiB, in which persistent memory is mapped; make it larger (truncate -s %2M)',
    ],
    [
      'a size that its mappings do not divide',
      { ...dax, align: 16 * MIB },
      'create c1: device /dev/d: its size of 8388608 bytes is no multiple of its alignment of 16777216 bytes',
    ],
  ])('is refused: %s', (_what, image, message) => {
    let said = '';
    try {
      wanted('/dev/d', image);
    } catch (error) {
      said = (error as Error).message;
    }
    expect(said).toBe(message);
  });
});

describe('the configuration', () => {
  it('has the guest’s numbers with the host’s rights, and not the host’s numbers', () => {
    const rules = [
      { allow: false, access: 'rwm' },
      { allow: true, type: 'b', major: 259, minor: 1, access: 'r' },
      { allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' },
    ];
    const spec: Spec = {
      ociVersion: '1.2.0',
      linux: {
        devices: [{ path: '/dev/null', type: 'c', major: 1, minor: 3 }],
        resources: { devices: rules, pids: { limit: 5 } },
      },
    };
    const [first] = wanted('/dev/data', block);
    const found = { path: '/dev/vdb', major: 254, minor: 16 };
    const { linux } = withGuestNodes(spec, [{ wanted: first!, found }]);
    expect(linux?.devices).toEqual([
      { path: '/dev/null', type: 'c', major: 1, minor: 3 },
      { path: '/dev/data', type: 'b', major: 254, minor: 16, fileMode: 0o640, uid: 7 },
    ]);
    expect(linux?.resources).toEqual({
      pids: { limit: 5 },
      devices: [rules[0], rules[2], { allow: true, type: 'b', major: 254, minor: 16, access: 'r' }],
    });
    expect(withGuestNodes(spec, [])).toBe(spec);
  });
});
