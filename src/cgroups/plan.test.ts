import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import type { LinuxResources } from '../oci/types.ts';
import type { CgroupLayout } from './host.ts';
import { parseCgroupsPath } from './path.ts';
import { contributeCgroups, execJoinSteps } from './plan.ts';
import { hybridLayout, v1Layout, v2Layout } from './testing/layouts.ts';

function contribute(resources: LinuxResources | undefined, layout: CgroupLayout) {
  return contributeCgroups(resources, layout, parseCgroupsPath('/default/web-1', 'web-1'), { id: 'web-1' });
}

/** A step in a line: what a person would read. */
function line(step: bulkhead.plan.v1.IStep): string {
  const { makeCgroup, writeFile, joinCgroup, attachDeviceProgram } = step;
  if (makeCgroup) {
    const extras = [
      ...(makeCgroup.inheritCpuset ? ['inherit'] : []),
      ...(makeCgroup.enableControllers ?? []),
    ];
    return ['make', makeCgroup.path, ...extras].join(' ');
  }
  if (writeFile) return `write ${writeFile.path} ${Buffer.from(writeFile.data ?? []).toString()}`;
  if (joinCgroup) {
    return `join ${joinCgroup.path}${joinCgroup.singleThread ? ' tasks' : ''}${joinCgroup.atClone ? ' at clone' : ''}`;
  }
  return `program ${attachDeviceProgram?.cgroup} ${(attachDeviceProgram?.instructions?.length ?? 0) % 8}`;
}

const short = (lines: string[]): string[] => lines.map((text) => text.replaceAll('/sys/fs/cgroup', '~'));

describe('contributeCgroups', () => {
  it('hybrid: makes, limits, denies devices, then joins; the unified directory at Clone', () => {
    const { outer, paths, warnings } = contribute(
      { memory: { limit: 1000 }, pids: { limit: 5 } },
      hybridLayout,
    );
    const lines = short(outer.map(line));
    expect(lines.slice(0, 10)).toEqual([
      'make ~/cpu/default/web-1',
      'make ~/cpuset/default/web-1 inherit',
      'make ~/memory/default/web-1',
      'make ~/devices/default/web-1',
      'make ~/freezer/default/web-1',
      'make ~/pids/default/web-1',
      'make ~/unified/default/web-1',
      'write ~/memory/default/web-1/memory.limit_in_bytes 1000',
      'write ~/pids/default/web-1/pids.max 5',
      'write ~/devices/default/web-1/devices.deny a',
    ]);
    expect(
      lines.slice(10, -7).every((text) => text.startsWith('write ~/devices/default/web-1/devices.allow ')),
    ).toBe(true);
    expect(lines.slice(-7)).toEqual([
      'join ~/cpu/default/web-1 tasks',
      'join ~/cpuset/default/web-1 tasks',
      'join ~/memory/default/web-1 tasks',
      'join ~/devices/default/web-1 tasks',
      'join ~/freezer/default/web-1 tasks',
      'join ~/pids/default/web-1 tasks',
      'join ~/unified/default/web-1 at clone',
    ]);
    expect(paths).toEqual([
      ...['cpu', 'cpuset', 'memory', 'devices', 'freezer', 'pids', 'unified'].map(
        (name) => `/sys/fs/cgroup/${name}/default/web-1`,
      ),
    ]);
    expect(warnings).toEqual([]);
  });

  it('hybrid: enables a unified controller only when a limit needs it', () => {
    const { outer } = contribute({ hugepageLimits: [{ pageSize: '2MB', limit: 1 }] }, hybridLayout);
    expect(short(outer.map(line))).toContain('make ~/unified/default/web-1 hugetlb');
    expect(short(outer.map(line))).toContain('write ~/unified/default/web-1/hugetlb.2MB.max 1');
  });

  it('v2: one directory, all controllers, a device program', () => {
    const { outer } = contribute({ cpu: { shares: 1024 } }, v2Layout);
    expect(short(outer.map(line))).toEqual([
      'make ~/default/web-1 cpuset cpu io memory hugetlb pids rdma',
      'write ~/default/web-1/cpu.weight 100',
      'program ~/default/web-1 0',
      'join ~/default/web-1 at clone',
    ]);
  });

  it('v1: co-mounted controllers once', () => {
    const { outer, paths } = contribute(undefined, v1Layout);
    expect(paths.filter((path) => path.includes('cpuacct'))).toEqual([
      '/sys/fs/cgroup/cpu,cpuacct/default/web-1',
    ]);
    expect(short(outer.map(line)).filter((text) => text.startsWith('join'))).toHaveLength(
      v1Layout.hierarchies.length,
    );
  });

  it('refuses a host where devices cannot be kept from the container', () => {
    const layout: CgroupLayout = {
      mode: 'v1',
      hierarchies: v1Layout.hierarchies.filter(({ names }) => !names.includes('devices')),
    };
    expect(() => contribute({}, layout)).toThrowError(
      expect.objectContaining({
        code: ErrorCode.FailedPrecondition,
        message:
          'create web-1: linux.resources.devices: this host has no cgroup controller "devices"; mount it, or mount cgroup2',
      }),
    );
  });

  it('gives the same steps for the same input', () => {
    const resources = { devices: [{ allow: false, access: 'rwm' }], cpu: { shares: 5 } };
    for (const layout of [v1Layout, hybridLayout, v2Layout]) {
      expect(contribute(resources, layout)).toEqual(contribute(resources, layout));
    }
  });
});

describe('execJoinSteps', () => {
  const { view } = contribute({}, v2Layout);
  const joined = (initCgroups: string) => short(execJoinSteps(view, initCgroups).map(line));

  it.each([
    ['init stayed', '0::/default/web-1\n', 'join ~/default/web-1 at clone'],
    ['init moved down', '0::/default/web-1/init.scope\n', 'join ~/default/web-1/init.scope at clone'],
    ['init went elsewhere', '0::/default/web-2\n', 'join ~/default/web-1 at clone'],
    ['init climbs', '0::/default/web-1/../../x\n', 'join ~/default/web-1 at clone'],
    ['init is gone', '', 'join ~/default/web-1 at clone'],
  ])('%s', (_, text, expected) => expect(joined(text)).toEqual([expected]));

  it('joins all hierarchies on v1', () => {
    const v1 = contribute({}, v1Layout);
    expect(execJoinSteps(v1.view, '')).toHaveLength(v1.paths.length);
  });
});
