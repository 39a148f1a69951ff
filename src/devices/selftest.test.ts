import { describe, expect, it } from 'vitest';
import { readMachine } from './machine.ts';
import { selftest, type SelftestActions } from './selftest.ts';
import { FakeTree, type FakeFiles } from './testing/fake_tree.ts';
import { goodHost, gpuFunction, nvidiaFiles, pciFiles, pmemFiles } from './testing/machines.ts';

const gpu = { address: '0000:41:00.0', minor: 0 };
const machines: Record<string, FakeFiles> = {
  nothing: {},
  'one-gpu': { ...goodHost, ...pciFiles([gpuFunction(gpu)]), ...nvidiaFiles('570.86.15', [gpu]) },
  'pmem-in-every-mode': pmemFiles([
    { region: 0, mode: 'raw' },
    { region: 2, mode: 'memory', mount: '/mnt/fast ext4 rw,relatime,dax=always' },
    { region: 3, mode: 'memory', mount: '/mnt/p xfs rw,relatime' },
    { region: 5, mode: 'dax' },
  ]),
};

const machine = (name: string) => readMachine(new FakeTree(machines[name]), 'x64');
const failing = (code: string) => (): never => {
  throw Object.assign(new Error(code), { code });
};
const good: SelftestActions = {
  open: () => {},
  read: () => {},
  mapSync: () => {},
  bind: async () => '/dev/vfio/40',
  release: async () => {},
  nvml: async () => ({ facts: { driver: '570.86.15', gpus: [], links: [] } }),
};
const failed = async (name: string, changes: Partial<SelftestActions>, addresses: string[] = []) =>
  (await selftest(machine(name), addresses, { ...good, ...changes })).filter(({ ok }) => !ok);

describe('the self-test', () => {
  it('has nothing to say where there is nothing', async () => {
    expect(await selftest(machine('nothing'), [], good)).toEqual([]);
  });

  it('opens every node of a GPU and reads its libraries', async () => {
    const results = await selftest(machine('one-gpu'), [], good);
    expect(results.map(({ test }) => test)).toEqual(
      expect.arrayContaining(['open /dev/nvidia0', 'open /dev/nvidiactl', 'libraries']),
    );
    expect(results.every(({ ok }) => ok)).toBe(true);
    const errors = await failed('one-gpu', { open: failing('EACCES') });
    expect(errors.map(({ detail }) => detail)).toContain('EACCES');
    expect(await failed('one-gpu', { read: failing('ENOENT') })).toEqual([
      expect.objectContaining({ test: 'libraries', detail: 'ENOENT' }),
    ]);
  });

  it('asks NVML, and says what it lacks', async () => {
    const asked = await selftest(machine('one-gpu'), [], good);
    expect(asked.find(({ test }) => test === 'NVML')).toMatchObject({ ok: true, detail: 'ok' });
    const nvml: SelftestActions['nvml'] = async () => ({ unavailable: 'ffi-napi is not installed' });
    expect(await failed('one-gpu', { nvml })).toEqual([
      expect.objectContaining({ test: 'NVML', detail: 'ffi-napi is not installed' }),
    ]);
  });

  it('maps persistent memory, whatever its mount options say', async () => {
    const mapped: [string, number][] = [];
    await failed('pmem-in-every-mode', { mapSync: (path, length) => mapped.push([path, length]) });
    expect(mapped).toEqual([
      ['/mnt/fast', 4096],
      ['/dev/dax5.0', 2 << 20],
    ]);
    const errors = await failed('pmem-in-every-mode', { mapSync: failing('EOPNOTSUPP') });
    expect(errors).toHaveLength(mapped.length);
    expect(errors[0]?.detail).toBe('EOPNOTSUPP');
  });

  it('takes a function that is named, and looks whether it came back', async () => {
    const address = '0000:41:00.0';
    const results = await selftest(machine('one-gpu'), [address], good);
    expect(results.slice(-3)).toEqual([
      { subject: `function ${address}`, test: 'bind to vfio-pci', ok: true, detail: 'nvidia before' },
      { subject: `function ${address}`, test: 'open /dev/vfio/40', ok: true, detail: 'ok' },
      { subject: `function ${address}`, test: 'give back', ok: true, detail: 'nvidia' },
    ]);
  });

  it('says why a function cannot be bound, and what it was left as', async () => {
    const address = '0000:41:00.0';
    const bind = async (): Promise<string> => Promise.reject(new Error('selftest: IOMMU is off'));
    expect(await failed('one-gpu', { bind }, [address])).toEqual([
      {
        subject: `function ${address}`,
        test: 'bind to vfio-pci',
        ok: false,
        detail: 'selftest: IOMMU is off',
      },
    ]);
    const host = new FakeTree(machines['one-gpu']);
    const release = async (): Promise<void> => {
      host.files.delete(`/sys/bus/pci/devices/${address}/driver`);
    };
    const results = await selftest(readMachine(host, 'x64'), [address], { ...good, release });
    expect(results.at(-1)).toMatchObject({ ok: false, detail: 'no driver instead of nvidia' });
  });
});
