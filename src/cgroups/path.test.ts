import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import type { CgroupLayout } from './host.ts';
import { controllerPath, locateCgroup, parseCgroupsPath, pathsOfView, viewOfPaths } from './path.ts';

const layout: CgroupLayout = {
  mode: 'hybrid',
  hierarchies: [
    { names: ['cpu', 'cpuacct'], mountPoint: '/sys/fs/cgroup/cpu,cpuacct', root: '/', ownPath: '/' },
    { names: ['memory'], mountPoint: '/sys/fs/cgroup/memory', root: '/', ownPath: '/agents/one' },
    { names: ['pids'], mountPoint: '/sys/fs/cgroup/pids', root: '/docker/abc', ownPath: '/docker/abc/in' },
  ],
  unified: {
    names: [],
    mountPoint: '/sys/fs/cgroup/unified',
    root: '/',
    ownPath: '/user.slice/session',
    controllers: [],
    weightFiles: [],
  },
};

const paths = (cgroupsPath: string | undefined): string[] =>
  pathsOfView(locateCgroup(parseCgroupsPath(cgroupsPath, 'web-1'), layout));

describe('cgroupsPath', () => {
  it.each(['/default/web-1', '//default//web-1/', '/../default/./web-1'])(
    'absolute %s: below every mount',
    (given) => {
      expect(paths(given)).toEqual([
        '/sys/fs/cgroup/cpu,cpuacct/default/web-1',
        '/sys/fs/cgroup/memory/default/web-1',
        '/sys/fs/cgroup/pids/default/web-1',
        '/sys/fs/cgroup/unified/default/web-1',
      ]);
    },
  );

  it.each([
    [undefined, 'web-1'],
    ['', 'web-1'],
    ['pods/a', 'pods/a'],
    ['../../pods/a', 'pods/a'],
  ])('relative %j: below the own cgroup on v1, beside it on v2', (given, name) => {
    expect(paths(given)).toEqual([
      `/sys/fs/cgroup/cpu,cpuacct/${name}`,
      `/sys/fs/cgroup/memory/agents/one/${name}`,
      `/sys/fs/cgroup/pids/in/${name}`,
      `/sys/fs/cgroup/unified/user.slice/${name}`,
    ]);
  });

  it.each([
    [
      'system.slice:docker:web-1',
      'is in the form slice:prefix:name of the systemd cgroup driver, which this version does not have; set SystemdCgroup = false, or give a path such as /default/NAME',
    ],
    [
      ':cri-containerd:abc',
      'is in the form slice:prefix:name of the systemd cgroup driver, which this version does not have; set SystemdCgroup = false, or give a path such as /default/NAME',
    ],
    ['/', 'names the root of the hierarchy'],
    ['/a/../..', 'names the root of the hierarchy'],
    ['..', 'names the root of the hierarchy'],
    ['/a\nb', 'holds a NUL or a newline'],
    ['/a\0b', 'holds a NUL or a newline'],
    [`/${'x'.repeat(256)}`, 'has a part longer than 255 bytes'],
  ])('refuses %j', (given, reason) => {
    expect(() => parseCgroupsPath(given, 'web-1')).toThrowError(
      expect.objectContaining({
        code: ErrorCode.InvalidArgument,
        message: `create web-1: linux.cgroupsPath ${JSON.stringify(given.slice(0, 128))}: ${reason}`,
      }),
    );
  });

  it('never leaves the mount points', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[./a:]{0,12}$/), (given) => {
        let view;
        try {
          view = locateCgroup(parseCgroupsPath(given, 'id'), layout);
        } catch {
          return;
        }
        for (const { mountPoint, path } of [
          ...view.hierarchies,
          view.unified ?? { mountPoint: '', path: '/x' },
        ]) {
          expect(path.startsWith(`${mountPoint}/`)).toBe(true);
          expect(path.length).toBeGreaterThan(mountPoint.length + 1);
          expect(path.split('/')).not.toContain('..');
        }
      }),
    );
  });
});

describe('views', () => {
  it('come back from their paths', () => {
    const view = locateCgroup(parseCgroupsPath('/default/web-1', 'web-1'), layout);
    expect(viewOfPaths(layout, pathsOfView(view))).toEqual(view);
    expect(viewOfPaths(layout, [])).toEqual({ mode: 'hybrid', hierarchies: [] });
  });

  it('find a co-mounted controller', () => {
    const view = locateCgroup(parseCgroupsPath('/x', 'x'), layout);
    expect(controllerPath(view, 'cpuacct')).toBe('/sys/fs/cgroup/cpu,cpuacct/x');
    expect(controllerPath(view, 'blkio')).toBeUndefined();
  });
});
