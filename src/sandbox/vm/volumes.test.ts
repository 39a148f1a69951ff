import { beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { imageVolume, volumePath, type Volume } from './storage.ts';
import { Volumes } from './volumes.ts';

let calls: string[];
let mounted: Set<string>;
let failing: Record<string, Error>;
let noted: string[];
let volumes: Volumes;

function did(call: string): void {
  calls.push(call);
  const failure = failing[call];
  if (failure !== undefined) throw failure;
}

beforeEach(() => {
  calls = [];
  mounted = new Set();
  failing = {};
  noted = [];
  volumes = new Volumes({
    plug: async ({ id }) => {
      did(`plug ${id}`);
      return { pciPath: '0000:00:02.3/00.0' };
    },
    unplug: async (device) => did(`unplug ${device}`),
    agent: {
      mount: async (_, { target, device, fstype, flags, data }) => {
        did(`mount ${JSON.stringify(device)} ${target} ${fstype} ${flags} ${data}`);
        mounted.add(target ?? '');
      },
      unmount: async (_, target) => {
        did(`unmount ${target}`);
        mounted.delete(target);
      },
      readFiles: async () =>
        new Map([
          ['/proc/1/mounts', [...mounted].map((target) => `/dev/x ${target} ext4 rw 0 0\n`).join('')],
        ]),
      call: async (_op, _id, call) => {
        did(Object.keys(call).join());
        return {} as never;
      },
    },
  });
});

const ask = (options: string[] = [], identity = 'one'): Volume => {
  const image = { kind: 'file' as const, size: 4 << 20, identity, inUse: false };
  const found = imageVolume('c1', 'mount /d', { type: 'ext4', source: '/img', options }, () => image);
  if (found === undefined) throw new Error('no volume');
  return found;
};
const attach = (volume: Volume): Promise<string> =>
  volumes.attach('c1', volume, (device) => noted.push(device));

describe('a volume', () => {
  it('is plugged, then mounted by its serial number', async () => {
    const volume = ask(['noload']);
    expect(await attach(volume)).toBe(volume.device);
    expect(calls).toEqual([
      `plug ${volume.device}`,
      `mount {"blockSerial":"${volume.device}"} ${volume.target} ext4 0 noload`,
    ]);
    expect(noted).toEqual([volume.device]);
  });

  it('is found by its place on the bus when it is memory', async () => {
    const volume = ask(['dax', 'ro']);
    await attach(volume);
    expect(calls[1]).toBe(`mount {"pciPath":"02.3/00.0","subsystem":"block"} ${volume.target} ext4 1 dax`);
  });

  it('is attached once for all containers of a pod', async () => {
    const volume = ask();
    expect(await Promise.all([attach(volume), attach(volume)])).toEqual([volume.device, volume.device]);
    expect(await attach(ask(['ro']))).toBe(volume.device);
    expect(calls).toHaveLength(2);
    expect(noted).toEqual([volume.device, volume.device, volume.device]);
  });

  it('is not had in two ways', async () => {
    await attach(ask(['ro']));
    noted = [];
    for (const other of [ask(), ask(['dax'])])
      await expect(attach(other)).rejects.toThrow(
        'create c1: volume /img: the pod has it already, but read-only, or with DAX and without; ' +
          'give all its mounts in the pod the same options',
      );
    expect(noted).toEqual([]);
    await attach(ask([], 'another'));
  });

  it('is unplugged when it cannot be mounted', async () => {
    const volume = ask();
    const mount = `mount {"blockSerial":"${volume.device}"} ${volume.target} ext4 0 `;
    failing[mount] = new Error('no file system');
    await expect(attach(volume)).rejects.toThrow('no file system');
    expect(calls.at(-1)).toBe(`unplug ${volume.device}`);
    failing = {};
    expect(await attach(volume)).toBe(volume.device);
  });

  it('is written and taken away at the end; memory stays', async () => {
    const disk = await attach(ask([], 'disk'));
    const memory = await attach(ask(['dax'], 'memory'));
    calls = [];
    await volumes.detach('c1', [disk, memory]);
    expect(calls).toEqual(['sync', `unmount ${volumePath(disk)}`, `unplug ${disk}`]);
    expect(await attach(ask(['dax'], 'memory'))).toBe(memory);
  });

  it('need not have been plugged to be taken away, but other failures are told', async () => {
    const [one, two] = [ask([], 'one').device, ask([], 'two').device];
    const error = (code: ErrorCode, reason: string): RuntimeError =>
      new RuntimeError({ code, op: 'vm', reason });
    failing[`unplug ${one}`] = error(ErrorCode.NotFound, 'no such device');
    await volumes.detach('c1', [one, two]);
    expect(calls.at(-1)).toBe(`unplug ${two}`);
    failing[`unplug ${one}`] = error(ErrorCode.DeadlineExceeded, 'the guest does not let go of it');
    calls = [];
    await expect(volumes.detach('c1', [one, two])).rejects.toThrow('does not let go');
    expect(calls.at(-1)).toBe(`unplug ${two}`);
  });

  it('stays for a container that has come while the one before was waiting to go', async () => {
    const used = new Set<string>();
    const volume = ask();
    await attach(volume);
    const coming = volumes.attach('c2', volume, (device) => used.add(device));
    const going = volumes.detach('c1', [volume.device], (device) => used.has(device));
    await Promise.all([coming, going]);
    expect(calls.filter((call) => /^un/.test(call))).toEqual([]);
    await volumes.detach('c2', [volume.device], () => false);
    expect(calls.at(-1)).toBe(`unplug ${volume.device}`);
  });

  it('that could neither be mounted nor taken away is mounted by the next', async () => {
    const volume = ask();
    const mount = `mount {"blockSerial":"${volume.device}"} ${volume.target} ext4 0 `;
    failing[mount] = new Error('no file system');
    failing[`unplug ${volume.device}`] = new Error('the guest does not let go of it');
    await expect(attach(volume)).rejects.toThrow('no file system');
    const there = { code: ErrorCode.AlreadyExists, op: 'vm', reason: 'is plugged already' };
    failing = { [`plug ${volume.device}`]: new RuntimeError(there) };
    expect(await attach(volume)).toBe(volume.device);
    // Memory is found by its place, which nobody tells a second time.
    const memory = ask(['dax'], 'memory');
    failing[`plug ${memory.device}`] = new RuntimeError(there);
    await expect(attach(memory)).rejects.toThrow('is plugged already');
  });

  it('is clean before the machine ends', async () => {
    const [disk, memory] = [await attach(ask([], 'disk')), await attach(ask(['dax'], 'memory'))];
    calls = [];
    await volumes.flush('c1', [disk, memory]);
    expect(calls).toEqual(['sync', `unmount ${volumePath(disk)}`, `unmount ${volumePath(memory)}`]);
    calls = [];
    await volumes.flush('c1', []);
    await volumes.detach('c1', []);
    expect(calls).toEqual([]);
  });
});
