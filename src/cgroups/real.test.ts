/** On the host as it is: cgroups of random names, made by bulkhead-init, removed again. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { CLONE_NEWCGROUP } from '../base/constants.ts';
import { ErrorCode } from '../base/errors.ts';
import { addon } from '../native/index.ts';
import type { LinuxResources } from '../oci/types.ts';
import { isFrozen, freezeCgroup, thawCgroup } from './freeze.ts';
import { cgroupLayout, type CgroupLayout } from './host.ts';
import { killCgroup } from './kill.ts';
import { watchCounter, watchOom } from './oom.ts';
import { controllerPath, pathsOfView, viewOfPaths } from './path.ts';
import { containerPids } from './pids.ts';
import { removeCgroups } from './remove.ts';
import { readMetrics } from './stats.ts';
import { RealCgroups, whyNotReal } from './testing/launch.ts';
import { applyResources } from './update.ts';

const whyNot = whyNotReal(cgroupLayout);
const hybrid = whyNot === undefined && cgroupLayout().mode !== 'v2';

let made: RealCgroups[] = [];
function make(resources: LinuxResources, layout = cgroupLayout()): RealCgroups {
  const cgroups = new RealCgroups(layout, resources);
  made.push(cgroups);
  return cgroups;
}
afterEach(async () => {
  const all = made;
  made = [];
  for (const cgroups of all) await cgroups.dispose();
  for (const cgroups of all) expect(cgroups.cgroups.paths.filter((path) => existsSync(path))).toEqual([]);
});

const read = (path: string): string => readFileSync(path, 'utf8').trim();
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** utime and stime of a process in ticks. */
function ticksOf(pid: number): number {
  const fields = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

const busy = ['/bin/sh', '-c', 'while :; do :; done'];

describe.skipIf(!hybrid)(`v1 hierarchies of this host${whyNot === undefined ? '' : ` (${whyNot})`}`, () => {
  it('makes, limits and joins every hierarchy', async () => {
    const cgroups = make({
      memory: { limit: 64 << 20, swap: 96 << 20 },
      cpu: { shares: 512, quota: 50000, period: 100000 },
      pids: { limit: 20 },
    });
    const { pid } = await cgroups.run(['/bin/sleep', '100']);
    const { view } = cgroups;
    const directory = (name: string): string => controllerPath(view, name) ?? 'none';
    expect(read(`${directory('memory')}/memory.limit_in_bytes`)).toBe(String(64 << 20));
    expect(read(`${directory('memory')}/memory.memsw.limit_in_bytes`)).toBe(String(96 << 20));
    expect(read(`${directory('cpu')}/cpu.shares`)).toBe('512');
    expect(read(`${directory('cpu')}/cpu.cfs_quota_us`)).toBe('50000');
    expect(read(`${directory('pids')}/pids.max`)).toBe('20');
    expect(read(`${directory('cpuset')}/cpuset.mems`)).not.toBe('');
    const { pid: running } = { pid: containerPids(view)[0] ?? pid };
    for (const path of pathsOfView(view)) expect(read(`${path}/cgroup.procs`)).toBe(String(running));
    expect(containerPids(view)).toEqual([running]);
    expect(viewOfPaths(cgroups.layout, cgroups.cgroups.paths)).toEqual(view);
  });

  it('keeps devices from the container', async () => {
    const cgroups = make({ devices: [{ allow: false, access: 'rwm' }] });
    const script = 'for d in null zero full kmsg; do (: < /dev/$d) 2>/dev/null && echo $d; done';
    expect((await cgroups.output(['/bin/sh', '-c', script])).text).toBe('null\nzero\nfull\n');
    const privileged = make({ devices: [{ allow: true, access: 'rwm' }] });
    expect((await privileged.output(['/bin/sh', '-c', script])).text).toBe('null\nzero\nfull\nkmsg\n');
  });

  it('is the root of its cgroup namespace, in every hierarchy', async () => {
    const cgroups = make({});
    const { text } = await cgroups.output(['/bin/cat', '/proc/self/cgroup'], CLONE_NEWCGROUP);
    const { hierarchies, unified } = cgroups.view;
    for (const { names } of hierarchies) expect(text).toContain(`:${names.join()}:/\n`);
    if (unified !== undefined) expect(text).toContain('0::/\n');
  });

  it('puts an exec where the container is', async () => {
    const cgroups = make({});
    await cgroups.run(['/bin/sleep', '100']);
    const [init = 0] = containerPids(cgroups.view);
    await cgroups.exec(init, ['/bin/sleep', '101']);
    const pids = containerPids(cgroups.view);
    expect(pids).toHaveLength(2);
    for (const path of pathsOfView(cgroups.view)) {
      expect(
        read(`${path}/cgroup.procs`)
          .split('\n')
          .map(Number)
          .sort((a, b) => a - b),
      ).toEqual(pids);
    }
  });

  it('updates limits up and down, whatever order the kernel wants', async () => {
    const cgroups = make({
      memory: { limit: 64 << 20, swap: 64 << 20 },
      cpu: { quota: 50000, period: 100000 },
    });
    await cgroups.run(['/bin/sleep', '100']);
    const { view, layout, id } = cgroups;
    const memory = controllerPath(view, 'memory') ?? '';
    const cpu = controllerPath(view, 'cpu') ?? '';
    for (const size of [256 << 20, 32 << 20, 128 << 20]) {
      applyResources(view, layout, { memory: { limit: size, swap: size } }, { id });
      expect(read(`${memory}/memory.limit_in_bytes`)).toBe(String(size));
      expect(read(`${memory}/memory.memsw.limit_in_bytes`)).toBe(String(size));
    }
    for (const [quota, period, burst] of [
      [20000, 20000, 10000],
      [200000, 100000, 200000],
      [1000, 5000, 0],
    ] as const) {
      applyResources(view, layout, { cpu: { quota, period, burst } }, { id });
      expect(read(`${cpu}/cpu.cfs_quota_us`)).toBe(String(quota));
      expect(read(`${cpu}/cpu.cfs_period_us`)).toBe(String(period));
      expect(read(`${cpu}/cpu.cfs_burst_us`)).toBe(String(burst));
    }
    applyResources(view, layout, { memory: { limit: -1 } }, { id });
    expect(Number(read(`${memory}/memory.memsw.limit_in_bytes`))).toBeGreaterThan(2 ** 62);
  });

  it('puts back what it wrote before a file refused its value', async () => {
    const limits = { memory: { limit: 64 << 20 }, cpu: { quota: 50000, shares: 512 }, pids: { limit: 77 } };
    const cgroups = make(limits);
    await cgroups.run(['/bin/sleep', '100']);
    const { view, layout, id } = cgroups;
    const files = [
      'memory.limit_in_bytes',
      'cpu.cfs_quota_us',
      'cpu.cfs_period_us',
      'cpu.shares',
      'pids.max',
    ];
    const all = (): string[] =>
      files.map((file) => read(`${controllerPath(view, file.split('.', 1)[0] ?? '') ?? ''}/${file}`));
    const before = all();
    const bad = {
      memory: { limit: 128 << 20 },
      pids: { limit: 5 },
      cpu: { quota: 400000, period: 200000, shares: 100, cpus: '900' },
    };
    expect(() => applyResources(view, layout, bad, { id })).toThrowError(/"900"/);
    expect(all()).toEqual(before);
  });

  it('names the file and the value that an update cannot write', async () => {
    const cgroups = make({});
    await cgroups.run(['/bin/sleep', '100']);
    const { view, layout, id } = cgroups;
    const file = `${controllerPath(view, 'cpuset') ?? ''}/cpuset.cpus`;
    expect(() => applyResources(view, layout, { cpu: { cpus: '900' } }, { id })).toThrowError(
      expect.objectContaining({
        message: expect.stringMatching(
          new RegExp(
            `^update ${id}: write "900" to ${file} \\(linux.resources.cpu.cpus\\): not all of them can be had: the cgroup above has \\d`,
          ),
        ),
      }),
    );
    const low = { memory: { limit: 4096, checkBeforeUpdate: true } };
    expect(() => applyResources(view, layout, low, { id })).toThrowError(
      expect.objectContaining({
        code: ErrorCode.FailedPrecondition,
        message: expect.stringMatching(
          /^update bh-\w+: linux.resources.memory.limit: 4096 is not above the present usage of \d+ bytes; leave out memory.checkBeforeUpdate to set it all the same$/,
        ),
      }),
    );
  });

  it('freezes and thaws', async () => {
    const cgroups = make({});
    await cgroups.run(busy);
    const [pid = 0] = containerPids(cgroups.view);
    await freezeCgroup(cgroups.view, cgroups.id);
    expect(isFrozen(cgroups.view)).toBe(true);
    const before = ticksOf(pid);
    await sleep(100);
    expect(ticksOf(pid)).toBe(before);
    thawCgroup(cgroups.view, cgroups.id);
    expect(isFrozen(cgroups.view)).toBe(false);
    for (let i = 0; ticksOf(pid) === before; i++) {
      expect(i).toBeLessThan(200);
      await sleep(20);
    }
  });

  it('kills a container that forks all the time, frozen or not', async () => {
    const bomb = ['/bin/sh', '-c', 'while :; do (sleep 5 & sleep 5 & wait) & sleep 0.01; done'];
    for (const frozen of [false, true]) {
      const cgroups = make({ pids: { limit: 60 } });
      const launched = await cgroups.run(bomb);
      await sleep(100);
      if (frozen) await freezeCgroup(cgroups.view, cgroups.id);
      await killCgroup(cgroups.view, { id: cgroups.id });
      expect((await launched.exited).waitStatus & 0x7f).toBe(9);
      expect(isFrozen(cgroups.view)).toBe(false);
    }
  });

  it('kills by signals where there is no cgroup.kill', async () => {
    const layout: CgroupLayout = { mode: 'v1', hierarchies: cgroupLayout().hierarchies };
    const cgroups = make({}, layout);
    const launched = await cgroups.run(['/bin/sh', '-c', 'sleep 50 & sleep 50 & wait']);
    await killCgroup(cgroups.view, { id: cgroups.id });
    expect((await launched.exited).waitStatus & 0x7f).toBe(9);
    expect(containerPids(cgroups.view)).toEqual([]);
  });

  it('measures what the container uses', async () => {
    const cgroups = make({
      memory: { limit: 64 << 20 },
      pids: { limit: 7 },
      cpu: { quota: 1000, period: 20000 },
    });
    await cgroups.run(busy);
    const measure = () => {
      const result = readMetrics(cgroups.view, cgroups.id);
      return result.version === 1 ? result.metrics : expect.fail('metrics of the wrong version');
    };
    // On a loaded machine it may take a while until its small share is used up, and until who launched it has gone.
    const settled = (): boolean => {
      const { cpu, pids } = measure();
      return (cpu?.throttling?.throttledTime ?? 0) > 0 && pids?.current === 1;
    };
    for (let i = 0; !settled(); i++) {
      expect(i).toBeLessThan(200);
      await sleep(50);
    }
    const { cpu, memory, pids } = measure();
    expect(cpu?.usage?.total).toBeGreaterThan(0);
    expect(cpu?.usage?.perCpu?.reduce((sum, value) => sum + value, 0)).toBeGreaterThan(0);
    expect(cpu?.throttling?.periods).toBeGreaterThan(0);
    expect(cpu?.throttling?.throttledTime).toBeGreaterThan(0);
    expect(memory?.usage?.limit).toBe(64 << 20);
    expect(memory?.usage?.usage).toBeGreaterThan(0);
    expect(memory?.hierarchicalMemoryLimit).toBe(64 << 20);
    expect(pids).toEqual({ current: 1, limit: 7 });
  });

  it('tells of a kill by the memory limit once, and not of removal', async () => {
    const cgroups = make({ memory: { limit: 16 << 20, swap: 16 << 20 } });
    await cgroups.run(['/bin/sleep', '100']);
    const [init = 0] = containerPids(cgroups.view);
    let told = 0;
    const watch = watchOom(cgroups.view, addon(), () => told++);
    // tail keeps the last line, and /dev/zero is one endless line.
    const eater = await cgroups.exec(init, ['/usr/bin/tail', '/dev/zero']);
    expect((await eater.exited).waitStatus & 0x7f).toBe(9);
    for (let i = 0; told === 0 && i < 3000; i++) await sleep(20);
    await sleep(100);
    expect(told).toBe(1);
    await cgroups.dispose();
    made = made.filter((each) => each !== cgroups);
    await sleep(100);
    expect(told).toBe(1);
    watch.close();
  });

  it('removes sub-cgroups, waits for the last process, and does not mind a second time', async () => {
    const cgroups = make({});
    const launched = await cgroups.run(['/bin/sleep', '0.2']);
    for (const path of cgroups.cgroups.paths) mkdirSync(`${path}/a/b`, { recursive: true });
    await removeCgroups(cgroups.cgroups.paths, { id: cgroups.id });
    await launched.exited;
    await removeCgroups(cgroups.cgroups.paths, { id: cgroups.id });
    expect(() => readMetrics(cgroups.view, cgroups.id)).toThrowError(
      expect.objectContaining({ code: ErrorCode.NotFound }),
    );
    expect(containerPids(cgroups.view)).toEqual([]);
  });

  it('says which cgroup cannot be removed', async () => {
    const cgroups = make({});
    await cgroups.run(['/bin/sleep', '100']);
    await expect(
      removeCgroups(cgroups.cgroups.paths, { id: cgroups.id, deadlineMs: 50 }),
    ).rejects.toThrowError(
      `delete ${cgroups.id}: cgroup ${cgroups.cgroups.paths[0]}: device or resource busy`,
    );
  });
});

/** The unified hierarchy of this host, seen as a v2 host would have it. */
function unifiedOnly(controllers: string[]): CgroupLayout {
  const { unified } = cgroupLayout();
  if (unified === undefined) throw new Error('no cgroup2 mount');
  return { mode: 'v2', hierarchies: [], unified: { ...unified, controllers } };
}
const hasUnified = whyNot === undefined && cgroupLayout().unified !== undefined;

describe.skipIf(!hasUnified)(
  `the unified hierarchy of this host${whyNot === undefined ? '' : ` (${whyNot})`}`,
  () => {
    it('makes the child in its cgroup, with a device program', async () => {
      const cgroups = make({}, unifiedOnly([]));
      const script =
        'grep ^0: /proc/self/cgroup; for d in null zero full kmsg; do (: < /dev/$d) 2>/dev/null && echo $d; done';
      const { text } = await cgroups.output(['/bin/sh', '-c', script]);
      expect(text).toBe(`0::/${cgroups.id}/one\nnull\nzero\nfull\n`);
    });

    it('replaces the device program of a cgroup that has one', async () => {
      const cgroups = make({ devices: [{ allow: true, access: 'rwm' }] }, unifiedOnly([]));
      const script = ['/bin/sh', '-c', '(: < /dev/kmsg) 2>/dev/null && echo kmsg'];
      expect((await cgroups.output(script)).text).toBe('kmsg\n');
      const stricter = new RealCgroups(cgroups.layout, {});
      const attach = stricter.cgroups.outer.find((step) => step.attachDeviceProgram)?.attachDeviceProgram;
      const directory = cgroups.view.unified?.path ?? '';
      addon().attachDeviceProgram(directory, attach?.instructions ?? new Uint8Array());
      addon().attachDeviceProgram(directory, attach?.instructions ?? new Uint8Array());
      const [join] = [{ joinCgroup: { path: directory, atClone: true } }];
      cgroups.cgroups.outer.splice(0, Infinity, join);
      expect((await cgroups.output(script)).text).toBe('');
    });

    it('freezes, thaws, measures and kills', async () => {
      const cgroups = make({}, unifiedOnly([]));
      const launched = await cgroups.run(busy);
      const [pid = 0] = containerPids(cgroups.view);
      expect(pid).toBeGreaterThan(1);
      await freezeCgroup(cgroups.view, cgroups.id);
      expect(isFrozen(cgroups.view)).toBe(true);
      const before = ticksOf(pid);
      await sleep(100);
      expect(ticksOf(pid)).toBe(before);
      thawCgroup(cgroups.view, cgroups.id);
      expect(isFrozen(cgroups.view)).toBe(false);
      await sleep(100);
      const result = readMetrics(cgroups.view, cgroups.id);
      if (result.version !== 2) return expect.fail('metrics of the wrong version');
      expect(result.metrics.cpu?.usageUsec).toBeGreaterThan(1000);
      await freezeCgroup(cgroups.view, cgroups.id);
      await killCgroup(cgroups.view, { id: cgroups.id });
      expect((await launched.exited).waitStatus & 0x7f).toBe(9);
    });

    it('tells of a counter that the kernel raises', async () => {
      const cgroups = make({}, unifiedOnly([]));
      const directory = cgroups.view.unified?.path ?? '';
      mkdirSync(directory, { recursive: true });
      let told = 0;
      // There is no memory controller in this hierarchy; "populated" is raised and told in the same way as "oom_kill".
      const watch = watchCounter(`${directory}/cgroup.events`, 'populated', () => told++);
      await cgroups.run(['/bin/sleep', '100']);
      for (let i = 0; told === 0 && i < 3000; i++) await sleep(20);
      await killCgroup(cgroups.view, { id: cgroups.id });
      await sleep(50);
      watch.close();
      expect(told).toBe(1);
    });

    it('takes a container whose processes moved down', async () => {
      const cgroups = make({}, unifiedOnly([]));
      const directory = cgroups.view.unified?.path ?? '';
      await cgroups.run(['/bin/sleep', '100']);
      const [init = 0] = containerPids(cgroups.view);
      mkdirSync(`${directory}/inner`);
      writeFileSync(`${directory}/inner/cgroup.procs`, String(init));
      await cgroups.exec(init, ['/bin/sleep', '100']);
      expect(read(`${directory}/cgroup.procs`)).toBe('');
      expect(containerPids(cgroups.view)).toHaveLength(2);
      await killCgroup(cgroups.view, { id: cgroups.id });
      expect(containerPids(cgroups.view)).toEqual([]);
    });

    it.skipIf(!hasUnified || !cgroupLayout().unified?.controllers.includes('hugetlb'))(
      'limits huge pages, the controller enabled on the way down',
      async () => {
        const top = `${cgroupLayout().unified?.mountPoint ?? ''}/cgroup.subtree_control`;
        const before = read(top);
        try {
          const cgroups = make({ hugepageLimits: [{ pageSize: '2MB', limit: 4 << 20 }] });
          await cgroups.run(['/bin/sleep', '100']);
          const directory = cgroups.view.unified?.path ?? '';
          expect(read(`${directory}/hugetlb.2MB.max`)).toBe(String(4 << 20));
          await cgroups.dispose();
          made = [];
        } finally {
          if (!before.split(' ').includes('hugetlb')) writeFileSync(top, '-hugetlb');
        }
      },
    );
  },
);
