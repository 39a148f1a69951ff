import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { DeviceJournal } from './journal.ts';
import { journalFiles, type JournalFiles } from './journal_files.ts';
import { FakeKernel } from './testing/fake_kernel.ts';

const NIC = '0000:01:10.0';
const DISK = '0000:03:00.1';
const BOUND = '0000:05:00.0';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-journal-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A NIC with its driver, a disk without one and with an override of its own, a function that vfio-pci has already. */
const machine = (): FakeKernel =>
  new FakeKernel(
    {
      '/proc/sys/kernel/random/boot_id': 'boot-1\n',
      '/sys/bus/pci/drivers/igbvf': {},
      '/sys/bus/pci/drivers/vfio-pci': {},
      [`/sys/bus/pci/devices/${NIC}/driver_override`]: '(null)',
      [`/sys/bus/pci/devices/${NIC}/driver`]: { link: '../../../bus/pci/drivers/igbvf' },
      [`/sys/bus/pci/devices/${DISK}/driver_override`]: 'kept',
      [`/sys/bus/pci/devices/${BOUND}/driver_override`]: 'vfio-pci',
      [`/sys/bus/pci/devices/${BOUND}/driver`]: { link: '../../../bus/pci/drivers/vfio-pci' },
    },
    { [NIC]: 'igbvf' },
  );

const journalOf = (kernel: FakeKernel, files: JournalFiles = journalFiles(dir)): DeviceJournal =>
  new DeviceJournal({ host: kernel, files, write: (path, data) => kernel.write(path, data) });
const driver = (kernel: FakeKernel, address: string): string =>
  kernel.link(`/sys/bus/pci/devices/${address}/driver`)?.split('/').at(-1) ?? '';
const dead = (): boolean => false;

describe('binding', () => {
  it('binds, keeps a claim, and restores', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const journal = journalOf(kernel);
    await journal.bind('ns/web', [NIC, DISK, BOUND], 'vfio-pci');
    expect([NIC, DISK, BOUND].map((address) => driver(kernel, address))).toEqual([
      'vfio-pci',
      'vfio-pci',
      'vfio-pci',
    ]);
    expect(journal.claims().map(({ owner, change }) => [owner, change.address, change.from])).toEqual([
      ['ns/web', NIC, 'igbvf'],
      ['ns/web', DISK, ''],
      ['ns/web', BOUND, 'vfio-pci'],
    ]);
    await journal.release('ns/web');
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
    await journal.release('ns/web');
  });

  it('writes in the order that the kernel wants', async () => {
    const kernel = machine();
    const journal = journalOf(kernel);
    await journal.bind('web', [NIC], 'vfio-pci');
    await journal.release('web');
    expect(kernel.writes).toEqual([
      `${NIC}/driver_override < vfio-pci`,
      `${NIC}/driver/unbind < ${NIC}`,
      `/sys/bus/pci/drivers_probe < ${NIC}`,
      `${NIC}/driver/unbind < ${NIC}`,
      `${NIC}/driver_override < `,
      `/sys/bus/pci/drivers_probe < ${NIC}`,
    ]);
  });

  it('refuses what another container has, and undoes what it had bound itself', async () => {
    const kernel = machine();
    const journal = journalOf(kernel);
    await journal.bind('ns/first', [DISK], 'vfio-pci');
    await expect(journalOf(kernel).bind('ns/second', [NIC, DISK], 'vfio-pci')).rejects.toThrow(
      `bind ns/second: device ${DISK}: device is in use by ns/first`,
    );
    expect(driver(kernel, NIC)).toBe('igbvf');
    expect(driver(kernel, DISK)).toBe('vfio-pci');
    expect(journal.claims().map(({ owner }) => owner)).toEqual(['ns/first']);
  });

  it('sees that a driver which is not loaded did not take the device, and restores', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    await expect(journalOf(kernel).bind('web', [NIC], 'absent')).rejects.toThrow(
      `bind: device ${NIC}: driver absent did not take it; modprobe absent`,
    );
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('keeps the claim when the restore fails, and tries again', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const journal = journalOf(kernel);
    await journal.bind('web', [NIC], 'vfio-pci');
    kernel.files.delete('/sys/bus/pci/drivers/igbvf');
    await expect(journal.release('web')).rejects.toThrow(
      `bind web: device ${NIC}: driver igbvf did not take it back; modprobe igbvf`,
    );
    expect(journal.claims()).toHaveLength(1);
    kernel.files.set('/sys/bus/pci/drivers/igbvf', {});
    await journal.recover(dead);
    expect(kernel.files.size).toBe(new Map(JSON.parse(before) as [string, unknown][]).size);
    expect(driver(kernel, NIC)).toBe('igbvf');
    expect(readdirSync(dir)).toEqual([]);
  });

  it('keeps the claim of a write that did not come back in time, and looks again when it may have', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    let late = (): Promise<void> => Promise.resolve();
    const stuck = new DeviceJournal({
      host: kernel,
      files: journalFiles(dir),
      write: async (path, data) => {
        if (!path.endsWith(`${NIC}/driver/unbind`)) return kernel.write(path, data);
        late = () => kernel.write(path, data);
        throw new RuntimeError({
          code: ErrorCode.DeadlineExceeded,
          op: 'write',
          object: path,
          reason: 'the kernel did not come back within 200 ms: the device is in use',
          errno: 'ETIMEDOUT',
        });
      },
    });
    await expect(stuck.bind('web', [DISK, NIC], 'vfio-pci')).rejects.toThrow(
      `write: /sys/bus/pci/devices/${NIC}/driver/unbind: the kernel did not come back within 200 ms: the device is in use`,
    );
    expect([driver(kernel, DISK), driver(kernel, NIC)]).toEqual(['', 'igbvf']);
    expect(readdirSync(dir)).toEqual([`pci-${NIC}.json`]);
    // The clean-up of the create that failed comes before the driver does.
    await stuck.release('web');
    expect(readdirSync(dir)).toEqual([`pci-${NIC}.json`]);
    // Whoever held the device has closed it: now the driver lets go.
    await late();
    expect(driver(kernel, NIC)).toBe('');
    await journalOf(kernel).recover(dead);
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('restores what another writer has unbound meanwhile, and says so of one that it cannot unbind', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    await journalOf(kernel).bind('web', [NIC], 'vfio-pci');
    let first = false;
    const raced = new DeviceJournal({
      host: kernel,
      files: journalFiles(dir),
      write: async (path, data) => {
        if (!path.endsWith('/driver/unbind')) return kernel.write(path, data);
        if (first) await kernel.write(path, data);
        throw new Error('write: no such device');
      },
    });
    await expect(raced.release('web')).rejects.toThrow('no such device');
    expect(driver(kernel, NIC)).toBe('vfio-pci');
    first = true;
    await raced.release('web');
    expect(kernel.snapshot()).toBe(before);
  });

  it('leaves a driver alone that someone else has bound since', async () => {
    const kernel = machine();
    const journal = journalOf(kernel);
    await journal.bind('web', [NIC], 'vfio-pci');
    kernel.files.set('/sys/bus/pci/drivers/other', {});
    kernel.files.set(`/sys/bus/pci/devices/${NIC}/driver`, { link: '../../../bus/pci/drivers/other' });
    await journal.release('web');
    expect(driver(kernel, NIC)).toBe('other');
  });

  it('drops the claim on a device that is gone', async () => {
    const kernel = machine();
    const journal = journalOf(kernel);
    await journal.bind('web', [NIC], 'vfio-pci');
    for (const path of [...kernel.files.keys()].filter((path) => path.includes(NIC)))
      kernel.files.delete(path);
    await journal.recover(dead);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('drops claims of an earlier boot, and files that a power cut left', async () => {
    const kernel = machine();
    await journalOf(kernel).bind('web', [NIC], 'vfio-pci');
    writeFileSync(join(dir, 'pci-x.json'), '');
    const booted = machine();
    booted.files.set('/proc/sys/kernel/random/boot_id', 'boot-2');
    const before = booted.snapshot();
    expect(await journalOf(booted).recover(dead)).toEqual([]);
    expect(booted.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
    await journalOf(kernel).bind('web', [DISK], 'vfio-pci');
    await journalOf(booted).bind('new', [DISK], 'vfio-pci');
    expect(driver(booted, DISK)).toBe('vfio-pci');
  });

  it('leaves the claims of the living alone', async () => {
    const kernel = machine();
    const journal = journalOf(kernel);
    await journal.bind('ns/lives', [NIC], 'vfio-pci');
    await journal.bind('ns/died', [DISK], 'vfio-pci');
    expect(await journal.recover((owner) => owner === 'ns/lives')).toEqual(['ns/died']);
    expect(driver(kernel, NIC)).toBe('vfio-pci');
    expect(driver(kernel, DISK)).toBe('');
  });
});

class Crash extends Error {}
const isCrash = (error: unknown): boolean =>
  error instanceof Crash || (error as Error).cause instanceof Crash;

/** A process that is killed at its n-th effect: just before it, or when it has happened. Nothing works after that. */
class Mortal {
  #left: number;
  readonly #after: boolean;
  readonly #refused: { path: string; errno: string };
  effects: string[] = [];

  /** @param refused a file that the kernel does not let anyone write */
  constructor(left: number, after: boolean, refused = { path: '', errno: '' }) {
    this.#left = left;
    this.#after = after;
    this.#refused = refused;
  }

  do<T>(name: string, effect: () => T): T {
    if (this.#left === 0) throw new Crash();
    this.#left -= 1;
    if (this.#left === 0 && !this.#after) throw new Crash();
    const result = effect();
    this.effects.push(name);
    if (this.#left === 0) throw new Crash();
    return result;
  }

  journal(kernel: FakeKernel): DeviceJournal {
    const files = journalFiles(dir);
    return new DeviceJournal({
      host: kernel,
      files: {
        ...files,
        create: (name, text) => this.do(`create ${name}`, () => files.create(name, text)),
        replace: (name, text) => this.do(`replace ${name}`, () => files.replace(name, text)),
        remove: (name) => this.do(`remove ${name}`, () => files.remove(name)),
      },
      write: async (path, data) => {
        const { path: refused, errno } = this.#refused;
        if (path === refused) {
          this.do(path, () => {});
          const code = ErrorCode.FailedPrecondition;
          throw new RuntimeError({ code, op: 'write', object: path, reason: 'refused', errno });
        }
        await this.do(path, () => kernel.write(path, data));
      },
    });
  }
}

const FOREVER = 1000;

describe('a crash at every step', () => {
  const whole = async (): Promise<string[]> => {
    const life = new Mortal(FOREVER, false);
    const journal = life.journal(machine());
    await journal.bind('web', [NIC, DISK], 'vfio-pci');
    await journal.release('web');
    return life.effects;
  };

  it('counts the steps', async () => {
    // Two claims made and removed; six writes for the NIC, four for the disk, which had no driver.
    expect(await whole()).toHaveLength(2 + 2 + 6 + 4);
    rmSync(dir, { recursive: true, force: true });
  });

  const steps = Array.from({ length: 14 }, (_, index) => index + 1);
  const cases = steps.flatMap((step) => [
    { step, after: false },
    { step, after: true },
  ]);

  it.each(cases)('step $step, effect done: $after: the next start restores', async ({ step, after }) => {
    const kernel = machine();
    const before = kernel.snapshot();
    const journal = new Mortal(step, after).journal(kernel);
    await expect(
      journal.bind('web', [NIC, DISK], 'vfio-pci').then(() => journal.release('web')),
    ).rejects.toSatisfy(isCrash);
    await journalOf(kernel).recover(dead);
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
  });

  it.each(cases.filter(({ step }) => step <= 7))(
    'step $step of the recovery itself, effect done: $after: the start after that restores',
    async ({ step, after }) => {
      const kernel = machine();
      const before = kernel.snapshot();
      await journalOf(kernel).bind('web', [NIC, DISK], 'vfio-pci');
      await expect(new Mortal(step, after).journal(kernel).recover(dead)).rejects.toSatisfy(isCrash);
      await journalOf(kernel).recover(dead);
      expect(kernel.snapshot()).toBe(before);
      expect(readdirSync(dir)).toEqual([]);
    },
  );

  /** A bind that fails at the second function and is undone: its driver refuses to let go, or has not done so in time. */
  const failing = (errno: string, step: number, after: boolean): Mortal =>
    new Mortal(step, after, { path: `/sys/bus/pci/devices/${NIC}/driver/unbind`, errno });
  const kinds = ['ENODEV', 'ETIMEDOUT'];
  const FAILING_STEPS = 11;

  it.each(kinds)('counts the steps of a bind that fails with %s', async (errno) => {
    const kernel = machine();
    const before = kernel.snapshot();
    const life = failing(errno, FOREVER, false);
    await expect(life.journal(kernel).bind('web', [DISK, NIC], 'vfio-pci')).rejects.toMatchObject({ errno });
    expect(life.effects).toHaveLength(FAILING_STEPS);
    expect(kernel.snapshot()).toBe(before);
    expect(
      journalOf(kernel)
        .claims()
        .map(({ owner }) => owner),
    ).toEqual(errno === 'ENODEV' ? [] : ['late']);
  });

  it.each(
    kinds.flatMap((errno) =>
      Array.from({ length: FAILING_STEPS }, (_, index) => index + 1).flatMap((step) => [
        { errno, step, after: false },
        { errno, step, after: true },
      ]),
    ),
  )('step $step of a bind that fails with $errno, effect done: $after', async ({ errno, step, after }) => {
    const kernel = machine();
    const before = kernel.snapshot();
    const bound = failing(errno, step, after).journal(kernel).bind('web', [DISK, NIC], 'vfio-pci');
    await expect(bound).rejects.toThrow();
    // From the moment that the driver was told: somebody looks at the function again.
    const isToldLate = errno === 'ETIMEDOUT' && step >= 6;
    expect(
      journalOf(kernel)
        .claims()
        .some(({ change }) => change.address === NIC),
    ).toBe(isToldLate || (step > 4 && step < 8) || (step === 4 && after) || (step === 8 && !after));
    await journalOf(kernel).recover(dead);
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(dir)).toEqual([]);
  });
});
