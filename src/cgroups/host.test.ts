import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { cgroupLayout, findWeightFiles, parseLayout, parseOwnCgroups, readLayout } from './host.ts';

const hybridMounts = `\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
`;
const hybridOwn = '9:name=systemd:/user.slice\n3:cpuset:/\n1:cpu,cpuacct:/work:er\n0::/user.slice/a\n';

const v2Mounts = '29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n';

describe('parseLayout', () => {
  it('reads a hybrid host: co-mounted controllers once, named hierarchies, own paths', () => {
    expect(parseLayout(hybridMounts, hybridOwn, '/sys/fs/cgroup')).toEqual({
      mode: 'hybrid',
      hierarchies: [
        {
          names: ['cpu', 'cpuacct'],
          mountPoint: '/sys/fs/cgroup/cpu,cpuacct',
          root: '/',
          ownPath: '/work:er',
        },
        { names: ['cpuset'], mountPoint: '/sys/fs/cgroup/cpuset', root: '/', ownPath: '/' },
        { names: ['name=systemd'], mountPoint: '/sys/fs/cgroup/systemd', root: '/', ownPath: '/user.slice' },
      ],
      unified: {
        names: [],
        mountPoint: '/sys/fs/cgroup/unified',
        root: '/',
        ownPath: '/user.slice/a',
        controllers: [],
        weightFiles: [],
      },
    });
  });

  it('is v1 without a cgroup2 mount', () => {
    const layout = parseLayout(hybridMounts.replace(/^41.*\n/m, ''), hybridOwn, '/sys/fs/cgroup');
    expect(layout.mode).toBe('v1');
    expect(layout.unified).toBeUndefined();
  });

  it('is v2 when cgroup2 is mounted at the top, whatever named hierarchy stands beside it', () => {
    expect(parseLayout(v2Mounts, '0::/init.scope\n', '/sys/fs/cgroup')).toMatchObject({
      mode: 'v2',
      hierarchies: [],
      unified: { mountPoint: '/sys/fs/cgroup', ownPath: '/init.scope' },
    });
    const named = '50 29 0:44 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n';
    const layout = parseLayout(v2Mounts + named, '1:name=systemd:/\n0::/\n', '/sys/fs/cgroup');
    expect(layout).toMatchObject({ mode: 'v2', hierarchies: [] });
  });

  it('is v2 when cgroup2 is mounted elsewhere and only named v1 hierarchies exist', () => {
    const mounts =
      '29 23 0:26 / /run/cg2 rw - cgroup2 none rw\n30 23 0:27 / /run/sd rw - cgroup sd rw,name=systemd\n';
    expect(parseLayout(mounts, '1:name=systemd:/\n0::/\n', '/sys/fs/cgroup').mode).toBe('v2');
  });

  it('counts a hierarchy that is mounted twice once, the mount below the cgroup root first', () => {
    const copy = '99 1 0:31 / /var/lib/copy/cpuset rw - cgroup cgroup rw,cpuset\n';
    const layout = parseLayout(copy + hybridMounts, hybridOwn, '/sys/fs/cgroup');
    expect(layout.hierarchies.filter(({ names }) => names.includes('cpuset'))).toEqual([
      { names: ['cpuset'], mountPoint: '/sys/fs/cgroup/cpuset', root: '/', ownPath: '/' },
    ]);
  });

  it('takes the only mount there is, wherever it is, and undoes the escapes of mountinfo', () => {
    const mounts = '99 1 0:31 /docker/x\\040y /mnt/c\\134p rw - cgroup cgroup rw,cpuset\n';
    expect(parseLayout(mounts, '3:cpuset:/docker/x y\n', '/sys/fs/cgroup').hierarchies).toEqual([
      { names: ['cpuset'], mountPoint: '/mnt/c\\p', root: '/docker/x y', ownPath: '/docker/x y' },
    ]);
  });

  it('refuses a host without cgroups', () => {
    expect(() => parseLayout('1 1 0:1 / / rw - ext4 /dev/sda rw\n', '', '/sys/fs/cgroup')).toThrowError(
      expect.objectContaining({
        code: ErrorCode.FailedPrecondition,
        message: 'cgroups: no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup',
      }),
    );
  });
});

describe('parseOwnCgroups', () => {
  it('keeps colons of paths and passes over what is no entry', () => {
    expect(parseOwnCgroups('2:cpu,cpuacct:/a:b\n0::/\nnonsense\n')).toEqual([
      { names: ['cpu', 'cpuacct'], path: '/a:b' },
      { names: [], path: '/' },
    ]);
  });
});

describe('readLayout', () => {
  let root = '';
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('reads controllers and weight files of a v2 host from a tree of files', () => {
    root = mkdtempSync(join(tmpdir(), 'bh-layout-'));
    const cgroup = join(root, 'cgroup');
    mkdirSync(join(root, 'proc/self'), { recursive: true });
    mkdirSync(join(cgroup, 'system.slice'), { recursive: true });
    writeFileSync(join(root, 'proc/self/mountinfo'), `29 23 0:26 / ${cgroup} rw - cgroup2 cgroup2 rw\n`);
    writeFileSync(join(root, 'proc/self/cgroup'), '0::/\n');
    writeFileSync(join(cgroup, 'cgroup.controllers'), 'cpuset cpu io memory\n');
    writeFileSync(join(cgroup, 'system.slice/io.weight'), 'default 100\n');
    const roots = { cgroup, proc: join(root, 'proc') };
    const layout = readLayout(roots);
    expect(layout.unified).toMatchObject({
      controllers: ['cpuset', 'cpu', 'io', 'memory'],
      weightFiles: ['io.weight'],
    });
    expect(cgroupLayout(roots)).toEqual(layout);
    expect(cgroupLayout(roots)).toBe(cgroupLayout(roots));
  });
});

describe('findWeightFiles', () => {
  it('passes over a cgroup that is removed meanwhile', () => {
    const root = mkdtempSync(join(tmpdir(), 'bh-weights-'));
    try {
      for (const name of ['a', 'b']) mkdirSync(join(root, name));
      const gone = (code: string) => (path: string) => {
        if (path.endsWith('/a')) throw Object.assign(new Error('gone'), { code });
        return ['io.weight', 'io.max'];
      };
      expect(findWeightFiles(root, gone('ENOENT'))).toEqual(['io.weight']);
      expect(() => findWeightFiles(root, gone('EACCES'))).toThrow('gone');
      expect(
        findWeightFiles(root, () => {
          throw Object.assign(new Error('gone'), { code: 'ENOENT' });
        }),
      ).toEqual([]);
    } finally {
      rmSync(root, { recursive: true });
    }
  });
});
