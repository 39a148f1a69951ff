/**
 * PCI functions of the host behind the vm wall. The IOMMU, the drivers and vfio-pci are real; only the hardware is
 * emulated.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { eventually } from '../e2e/lib/exec.ts';
import { engines, hypervisors, machineDirectories, monitors, vm } from '../e2e/vm/machines.ts';
import { allIds, allVfio, Functions, hostDrivers, sh } from './functions.ts';
import { ON_KVM, runInMachine } from './machines.ts';

const MINUTE = 60_000;
const TEXT = 'written on the host';
/** Of the disk, as tools/lab/sittings.ts has it. */
const DISK_MIB = 64;
/** Memory of a machine without limits, and more huge pages than it takes. */
const GUEST_MIB = 256;
const HUGE_PAGES = 150;

let functions: Functions;
let containerd: PrivateContainerd;
beforeAll(async () => {
  functions = await Functions.find();
  sh(`printf '%s' '${TEXT}' | dd of=${await functions.disk()} conv=fsync bs=4096 2>/dev/null`);
  containerd = await PrivateContainerd.start({ runtime: vm, vmConfig: ON_KVM });
});
afterAll(() => containerd?.stop());

/** A pod that has all of them, and stays. */
const pod = async (id: string): Promise<void> => {
  const started = await runInMachine(containerd, id, ['sleep', '10000'], {
    flags: ['-d', ...functions.annotation()],
    timeout: 4 * MINUTE,
  });
  expect(started).toMatchObject({ code: 0, stderr: '' });
  expect(functions.drivers()).toEqual(allVfio);
};
/** Processors that each thread of a process may run on, as the kernel says. */
const affinities = (pid: number): string[] =>
  sh(`cat /proc/${pid}/task/*/status 2>/dev/null || true`)
    .split('\n')
    .flatMap((line) => /^Cpus_allowed_list:\s*(\S+)/.exec(line)?.[1] ?? []);
const claims = (): string[] => {
  const dir = join(containerd.bulkheadRoot, 'devices');
  return existsSync(dir) ? readdirSync(dir) : [];
};
/** A claim goes when its function is the host's again. */
const restored = async (): Promise<void> => {
  await eventually(
    'the host’s drivers',
    () => claims().length === 0 && JSON.stringify(functions.drivers()) === JSON.stringify(hostDrivers),
    30_000,
  );
};

describe('functions of the host in a virtual machine', () => {
  it('are enumerated by its kernel', async () => {
    await pod('three');
    const script = 'cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor $d/device $d/class); done';
    const seen = await containerd.exec('three', 'e1', ['sh', '-c', script], { timeout: MINUTE });
    expect(seen).toMatchObject({ code: 0, stderr: '' });
    expect(seen.stdout.split('\n')).toEqual(expect.arrayContaining(allIds));
  });

  it('have the guest’s memory on their NUMA node', () => {
    // "7f… bind:1 file=/memfd:… N1=… kernelpagesize_kB=4", of each mapping.
    const [pid = 0] = hypervisors(containerd);
    const memory = sh(`cat /proc/${pid}/numa_maps`)
      .split('\n')
      .filter((line) => line.includes('memfd:'));
    expect(memory.length).toBeGreaterThan(0);
    for (const line of memory) {
      expect(line).toMatch(/ bind(=static)?:1 /);
      expect(line).not.toMatch(/ N0=/);
    }
    expect(memory.join()).toMatch(/ N1=\d+/);
  });

  it('are nobody else’s meanwhile', async () => {
    const second = await containerd.run('second', ['true'], { flags: ['--rm', ...functions.annotation()] });
    expect(second.code).not.toBe(0);
    expect(second.stderr).toMatch(/second: .*0000:\S+/);
    expect(functions.drivers()).toEqual(allVfio);
  });

  it('are the host’s again after the container’s end', async () => {
    await containerd.remove('three');
    await restored();
    expect(sh(`head -c ${TEXT.length} ${await functions.disk()}`)).toBe(TEXT);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  it('are driven by a kernel that has the drivers', async () => {
    const guest = (process.env.BULKHEAD_LAB_GUEST ?? '').replace(/^(\w+)=(.*)$/gm, '$1 = "$2"');
    const stock = await PrivateContainerd.start({
      runtime: vm,
      vmConfig: `template = false\n${ON_KVM}${guest}`,
    });
    try {
      const script = [
        'cd /sys/bus/pci/devices',
        'for d in *; do [ ! -e $d/driver ] || echo $(cat $d/vendor $d/device) $(basename $(readlink $d/driver)); done',
        'cat /sys/block/nvme0n1/size',
      ].join('; ');
      const flags = ['--rm', ...functions.annotation()];
      const seen = await runInMachine(stock, 'driven', ['sh', '-c', script], { flags, timeout: 4 * MINUTE });
      expect(seen).toMatchObject({ code: 0, stderr: '' });
      const lines = seen.stdout.split('\n');
      expect(lines).toContain('0x8086 0x10ca igbvf');
      expect(lines).toContain('0x1b36 0x0010 nvme');
      // Sectors of the namespace, which the guest's driver has asked the disk for.
      expect(lines.filter((line) => line !== '').at(-1)).toBe(String((DISK_MIB << 20) / 512));
      expect(await stock.leaks()).toEqual([]);
    } finally {
      await stock.stop();
    }
    expect(functions.drivers()).toEqual(hostDrivers);
  });

  it('may have memory of huge pages of their NUMA node, counted before and given back after, and vCPUs on processors of their own', async () => {
    const pages = (node: number): string => `/sys/devices/system/node/node${node}/hugepages/hugepages-2048kB`;
    const free = (node: number): number => Number(sh(`cat ${pages(node)}/free_hugepages`));
    // containerd 2: its ctr can name processors.
    const huge = await PrivateContainerd.start({
      runtime: vm,
      version: '2',
      vmConfig: `huge_pages = "2M"\n${ON_KVM}`,
    });
    try {
      const flags = ['-d', '--cpuset-cpus', '0-1', ...functions.annotation()];
      // Enough of them, on the wrong node.
      sh(`echo ${HUGE_PAGES} > ${pages(0)}/nr_hugepages`);
      const refused = await huge.run('none', ['true'], { flags: ['--rm', ...functions.annotation()] });
      expect(refused.stderr).toMatch(
        /create none: huge pages of 2 MiB: 128 are needed on NUMA node 1 and 0 are free; echo 128 > \S+node1\S+/,
      );
      await eventually(
        'the host’s drivers',
        () => JSON.stringify(functions.drivers()) === JSON.stringify(hostDrivers),
        30_000,
      );
      sh(`echo ${HUGE_PAGES} > ${pages(1)}/nr_hugepages`);
      expect([free(0), free(1)]).toEqual([HUGE_PAGES, HUGE_PAGES]);
      const started = await runInMachine(huge, 'huge', ['sleep', '10000'], { flags, timeout: 4 * MINUTE });
      expect(started).toMatchObject({ code: 0, stderr: '' });
      // All of the guest's memory, taken before its first instruction.
      expect([free(0), HUGE_PAGES - free(1)]).toEqual([HUGE_PAGES, GUEST_MIB / 2]);
      expect(functions.drivers()).toEqual(allVfio);
      // One vCPU on the first processor of the set; the hypervisor's other threads are on any of it.
      const threads = hypervisors(huge).flatMap(affinities);
      expect(threads.filter((list) => list === '0')).toHaveLength(1);
      expect([...new Set(threads)].sort()).toEqual(['0', '0-1']);
      expect(huge.engineLog()).toContain('it has processors of NUMA node 0, its devices are on 1');
      await huge.remove('huge');
      expect(free(1)).toBe(HUGE_PAGES);
      expect(await huge.leaks()).toEqual([]);
    } finally {
      for (const node of [0, 1]) sh(`echo 0 > ${pages(node)}/nr_hugepages`);
      await huge.stop();
    }
    expect(functions.drivers()).toEqual(hostDrivers);
  });

  const killed = async (what: string, pids: () => number[]): Promise<void> => {
    const id = `killed-${what}`;
    await pod(id);
    const found = pids();
    expect(found.length).toBeGreaterThan(0);
    for (const pid of found) process.kill(pid, 'SIGKILL');
    await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', id], { timeout: MINUTE });
    await eventually('the end', async () => {
      await containerd.ctr(['task', 'delete', '--force', id], { timeout: MINUTE });
      return (await containerd.status(id)) === undefined;
    });
    await containerd.ctr(['container', 'rm', id]);
    await restored();
    expect(hypervisors(containerd)).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  };

  it.each([
    ['hypervisor', () => hypervisors(containerd)],
    ['engine', () => engines(containerd)],
  ])('are the host’s again after SIGKILL of the %s and delete', killed);

  it('leave nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });

  // containerd gives the clean-up after a dead shim five seconds, which drivers may need longer than under emulation: it
  // then keeps its own directory of the pod until it starts again, so that there is no look for leaks behind this.
  it('are the host’s again after SIGKILL of the monitor', () =>
    killed('monitor', () => monitors(containerd)));
});
