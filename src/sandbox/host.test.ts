import { describe, expect, it } from 'vitest';
import { compileExec } from '../plan/exec.ts';
import type { ExecPlanInput } from '../plan/inputs.ts';
import { effectiveCapabilities, hardLimits, isInUserNamespace, isNsdelegate, readHostFacts } from './host.ts';

describe('host facts', () => {
  it('are read from proc, and are modest where there is none', () => {
    expect(readHostFacts('/none', '/none')).toMatchObject({
      capLastCap: 40,
      canRaiseLimits: false,
      apparmor: false,
      selinux: false,
      kcore: false,
      nsdelegate: false,
    });
    expect(effectiveCapabilities('CapEff:\t000001ffffffffff\n')).toBe(2 ** 41 - 1);
    expect(isInUserNamespace('         0          0 4294967295\n')).toBe(false);
    expect(isInUserNamespace('         0       1000          1\n')).toBe(true);
    expect(
      hardLimits(
        'Limit  Soft  Hard  Units\nMax open files            1024                 unlimited            files\n',
      ),
    ).toEqual({
      RLIMIT_NOFILE: -1,
    });
  });

  it.each([
    [true, '35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot'],
    [true, '1 1 0:1 / / rw - ext4 /dev/a rw\n35 24 0:30 / /sys/fs/cgroup rw - cgroup2 none rw,nsdelegate'],
    [false, '35 24 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw'],
    [false, '35 24 0:30 / /nsdelegate rw - ext4 /dev/nsdelegate rw'],
  ])('say %s of nsdelegate in %s', (expected, mountinfo) => {
    expect(isNsdelegate(mountinfo)).toBe(expected);
  });
});

describe('an exec', () => {
  const input = (nsdelegate: boolean, namespaces: ExecPlanInput['target']['namespaces']): ExecPlanInput => ({
    id: 'web',
    execId: 'e',
    process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 }, env: [] },
    target: { pid: 7, startTime: 1, namespaces },
    cgroup: { outer: [{ joinCgroup: { path: '/sys/fs/cgroup/web', atClone: true } }] },
    host: { ...readHostFacts('/none', '/none'), nsdelegate },
  });
  const joins = (nsdelegate: boolean, namespaces: ExecPlanInput['target']['namespaces']) =>
    compileExec(input(nsdelegate, namespaces)).steps?.find(({ joinCgroup }) => joinCgroup)?.joinCgroup;

  it('is made in its cgroup, unless a namespace that nothing crosses comes first', () => {
    expect(joins(false, ['pid', 'cgroup'])).toMatchObject({ atClone: true });
    expect(joins(true, ['pid'])).toMatchObject({ atClone: true });
    expect(joins(true, ['pid', 'cgroup'])).toEqual({ path: '/sys/fs/cgroup/web' });
  });
});
