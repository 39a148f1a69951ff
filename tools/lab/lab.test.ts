import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestCache } from '../../src/guest/cache.ts';
import { labAssets, withGuestKernel, type LabAssets } from './assets.ts';
import { boot, type BootInput } from './boot.ts';
import { job } from './job.ts';
import { commandLine } from './machine.ts';
import { sittings } from './sittings.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'bh-lab-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const assets: LabAssets = {
  qemu: '/peers/lab-qemu/qemu',
  firmware: ['/peers/firmware'],
  kernel: '/peers/vmlinuz',
  modules: '/peers/lab-kernel',
  release: '6.12',
};

describe('the assets of the lab', () => {
  it('name set-up when they are not there', () => {
    expect(() => labAssets(dir)).toThrow(`lab: ${dir}: no machine to boot; run tools/setup.sh`);
  });

  it('are found by what is in the packages', () => {
    mkdirSync(join(dir, 'lab-kernel/lib/modules/6.12-x'), { recursive: true });
    mkdirSync(join(dir, 'lab-qemu/usr/bin'), { recursive: true });
    writeFileSync(join(dir, 'lab-qemu/usr/bin/qemu-system-x86_64'), '');
    expect(labAssets(dir)).toMatchObject({
      release: '6.12-x',
      kernel: join(dir, 'lab-kernel/boot/vmlinuz-6.12-x'),
    });
  });

  const guest = (modules: string[]): string => {
    const cache = new GuestCache(join(dir, 'cache'));
    const key = 'a'.repeat(32);
    const made = cache.workDir();
    writeFileSync(join(made, 'vmlinux'), '');
    cache.keepKernel(made, { version: 1, key, release: '6.12-y', origin: 'x', modules });
    cache.select(key);
    return cache.dir;
  };

  it('may have the kernel of our guests, which has no modules', () => {
    const cache = guest([]);
    expect(withGuestKernel(assets, cache)).toEqual({
      ...assets,
      kernel: join(cache, 'kernels', 'a'.repeat(32), 'vmlinux'),
      modules: undefined,
      release: '6.12-y',
    });
  });

  it('have no distribution’s kernel in its place, and none that was not built', () => {
    const cache = guest(['000-virtio.ko']);
    expect(() => withGuestKernel(assets, cache)).toThrow(
      `lab: ${cache}: not a kernel of ours; run make guest`,
    );
    expect(() => withGuestKernel(assets, join(dir, 'none'))).toThrow(
      `lab: guest kernel: none in ${join(dir, 'none')}; make one with: bulkhead guest build`,
    );
  });
});

describe('the command line of the lab', () => {
  const words = commandLine({
    assets,
    initrd: '/i.cpio',
    tree: '/tree',
    dir: '/out',
    machine: {
      memoryMib: 512,
      machine: ['nvdimm=on'],
      slots: 'slots=2,maxmem=8G',
      devices: ['-drive', 'file=@DIR@/d'],
    },
  });

  it('names the directory of modules to a kernel that has some', () => {
    const append = (given: LabAssets): string => {
      const machine = { memoryMib: 512 };
      const all = commandLine({ assets: given, initrd: '/i.cpio', tree: '/tree', dir: '/out', machine });
      return all[all.indexOf('-append') + 1] ?? '';
    };
    expect(append(assets)).toContain('LAB_TREE=/tree LAB_KERNEL=/peers/lab-kernel');
    expect(append({ ...assets, modules: undefined })).toMatch(/ LAB_TREE=\/tree$/);
  });

  it('shares the host read-only, and one directory to write to', () => {
    expect(words).toContain('local,id=host,path=/,security_model=none,readonly=on,multidevs=remap');
    expect(words).toContain('local,id=out,path=/out,security_model=none');
  });

  it('emulates, and never opens /dev/kvm', () => {
    expect(words[words.indexOf('-accel') + 1]).toBe('tcg,thread=multi');
    expect(words.filter((word) => word === '-accel')).toHaveLength(1);
  });

  it('has what the sitting adds', () => {
    expect(words[words.indexOf('-M') + 1]).toBe('q35,kernel-irqchip=split,nvdimm=on');
    expect(words[words.indexOf('-m') + 1]).toBe('512M,slots=2,maxmem=8G');
    expect(words.slice(-2)).toEqual(['-drive', 'file=/out/d']);
  });
});

describe('the job of a sitting', () => {
  it('loads modules, sets the environment, and reports', () => {
    const text = job({
      name: 'x',
      about: 'x',
      machine: { memoryMib: 1 },
      modules: ['kvm_amd'],
      files: ["it's.ts"],
      env: { A: 'b c' },
      privately: true,
      deadlineMinutes: 1,
    });
    expect(text).toContain('modprobe kvm_amd || exit 1\n');
    expect(text).toContain("export A='b c'\n");
    expect(text).toContain(
      'tools/private.sh node node_modules/vitest/vitest.mjs run --config test/lab/vitest.config.ts ',
    );
    expect(text).toContain("--outputFile.json=/run/lab/report.json 'it'\\''s.ts'");
  });

  it('is one for each name', () => {
    expect(new Set(sittings.map(({ name }) => name)).size).toBe(sittings.length);
  });
});

describe('a boot', () => {
  const machine = (script: string, more: Partial<BootInput> = {}) => {
    const qemu = join(dir, 'qemu');
    writeFileSync(qemu, `#!/bin/sh\n${script}\n`);
    chmodSync(qemu, 0o755);
    return boot({
      qemu,
      args: [dir],
      dir,
      job: 'true',
      deadlineMs: 300_000,
      readyMs: 300_000,
      silentMs: 300_000,
      onConsole: () => {},
      ...more,
    });
  };

  it('ends with the status of its job', async () => {
    expect(await machine('echo hello; echo 3 > $1/status')).toMatchObject({
      status: 3,
      failure: undefined,
      broken: false,
      ready: false,
      cut: false,
      lastWords: 'hello',
    });
  });

  it('that goes off without a status is a failure', async () => {
    expect(await machine('echo panic; exit 1')).toMatchObject({
      status: undefined,
      failure: 'the machine went off by itself (QEMU: 1)',
      broken: true,
      lastWords: 'panic',
    });
  });

  it('that leaves an odd status is a failure', async () => {
    expect((await machine('echo odd > $1/status')).failure).toMatch('went off by itself');
  });

  it('that hangs is ended at its deadline, with its last words', async () => {
    const hung = await machine('seq 100; exec sleep 1000', { deadlineMs: 5000 });
    expect(hung).toMatchObject({ status: undefined, failure: 'no end within 5 s', broken: false });
    expect(hung.lastWords.split('\n')).toHaveLength(40);
    expect(hung.lastWords).toMatch(/^61\n[^]*\n100$/);
  });

  it('that stands still is ended, and not one that lives', async () => {
    const still = await machine('echo last; echo 1 > $1/alive; exec sleep 1000', { silentMs: 2000 });
    expect(still).toMatchObject({
      status: undefined,
      broken: true,
      failure: 'stands still: its time has not gone on for 2 s',
    });
    const lives = 'for i in 1 2 3 4 5 6 7 8; do echo $i > $1/alive; sleep 1; done; echo 0 > $1/status';
    expect(await machine(lives, { silentMs: 6000 })).toMatchObject({ status: 0, broken: false });
  });

  it('that does not come so far as its job is ended sooner', async () => {
    const stuck = await machine('echo panic; exec sleep 1000', { readyMs: 5000 });
    expect(stuck).toMatchObject({ ready: false, failure: 'has not come up within 5 s', lastWords: 'panic' });
    const late = await machine('echo "lab: ready after 3 s"; sleep 7; echo 0 > $1/status', { readyMs: 5000 });
    expect(late).toMatchObject({ ready: true, failure: undefined, status: 0 });
  });

  it('without a QEMU is a failure', async () => {
    const none = await machine('', { qemu: '/nowhere/qemu' });
    expect(none.status).toBeUndefined();
    expect(none.lastWords).toContain('/nowhere/qemu');
  });

  it('is cut when its file appears', async () => {
    const cut = await machine('touch $1/cut; exec sleep 1000', { cutAt: 'cut' });
    expect(cut).toMatchObject({ status: undefined, failure: undefined, cut: true });
  });
});
