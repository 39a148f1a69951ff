import { describe, expect, it } from 'vitest';
import { podSpec } from '../../../test/fakes/sandbox.ts';
import { CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUTS, MOUNT_ATTR_RDONLY } from '../../base/constants.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import type { Step } from '../../plan/inputs.ts';
import { guestFacts } from './layout.ts';
import {
  containerSharePlan,
  containerUnsharePlan,
  shareDaemonPlan,
  type ContainerShareInput,
} from './share.ts';

const names = (steps: readonly Step[] | null | undefined): string[] =>
  (steps ?? []).map((step) => Object.keys(step).join());

describe('the daemon of a share', () => {
  const plan = shareDaemonPlan({
    program: '/usr/bin/virtiofsd',
    socket: '/r/fs.sock',
    share: '/r/share',
    cgroupSteps: [{ joinCgroup: { path: '/cg/pod' } }],
    openFiles: 99,
  });

  it('listens before it has a file system of its own, in the pod’s cgroup', () => {
    expect(names(plan.steps)).toEqual([
      'listen',
      'joinCgroup',
      'clone',
      'setPropagation',
      'fsMount',
      'attach',
      'rlimit',
      'umask',
      'noNewPrivs',
      'exec',
    ]);
    expect(plan.steps?.[0]?.listen).toMatchObject({ path: '/r/fs.sock', index: 0 });
  });

  it('is apart from the host before it is a program', () => {
    expect(plan.steps?.slice(0, 6)).toEqual([
      { listen: { path: '/r/fs.sock', index: 0, blocking: true } },
      { joinCgroup: { path: '/cg/pod' } },
      { clone: { namespaces: CLONE_NEWNS + CLONE_NEWIPC + CLONE_NEWUTS } },
      {
        setPropagation: {
          path: '/',
          propagation: bulkhead.plan.v1.Propagation.PROPAGATION_SLAVE,
          recursive: true,
        },
      },
      { fsMount: { slot: 1, fstype: 'tmpfs', source: 'tmpfs', options: ['mode=755', 'size=4m'] } },
      {
        attach: {
          slot: 1,
          target: '/r/share',
          make: bulkhead.plan.v1.TargetKind.TARGET_KIND_EXISTING,
          hostTarget: true,
        },
      },
    ]);
  });

  it('shows that file system and no other', () => {
    const exec = plan.steps?.at(-1)?.exec;
    expect(exec?.args).toEqual(expect.arrayContaining(['--fd=3', 'source=/r/share', 'sandbox=namespace']));
    expect(exec?.preserveFds).toBe(1);
    expect(plan.steps?.find((step) => step.attach)?.attach?.target).toBe('/r/share');
    expect(plan.steps?.find((step) => step.rlimit)?.rlimit).toMatchObject({ soft: 99, hard: 99 });
  });
});

describe('what a container sees', () => {
  const input: ContainerShareInput = {
    id: 'c1',
    bundle: '/b',
    spec: podSpec(),
    serial: 4,
    daemonPid: 55,
    share: '/r/share',
    rootfs: '/b/rootfs',
    rootfsMounts: [],
    shares: [],
    host: guestFacts,
  };
  const share = {
    name: 'm0',
    source: '/srv',
    recursive: true,
    readOnly: true,
    readOnlyBelow: false,
    follows: false,
  };

  it('is opened by the host’s names before the daemon’s namespace is joined', () => {
    const steps = containerSharePlan({ ...input, shares: [share] }).steps ?? [];
    const joined = steps.findIndex((step) => step.joinNamespace);
    expect(steps[joined]?.joinNamespace).toMatchObject({ pid: 55, types: CLONE_NEWNS });
    expect(steps.findLastIndex((step) => step.openTree)).toBeLessThan(joined);
    const attached = steps.slice(joined).flatMap(({ attach }) => (attach ? [attach.target] : []));
    expect(attached).toEqual(['/c4/rootfs', '/c4/m0']);
    expect(names(steps).at(-1)).toBe('exit');
  });

  it('is read-only where it is, in the mount itself', () => {
    const steps =
      containerSharePlan({ ...input, shares: [share, { ...share, readOnly: false }] }).steps ?? [];
    const set = steps.flatMap(({ mountSetattr }) => (mountSetattr ? [mountSetattr] : []));
    const own = set.filter(({ slot }) =>
      steps.some((step) => step.openTree?.path === '/srv' && step.openTree.slot === slot),
    );
    expect(own.map((each) => each.set)).toEqual([MOUNT_ATTR_RDONLY, 0]);
    expect(own.map(({ recursive }) => recursive)).toEqual([false, false]);
  });

  it('sees what the host mounts there later only where that is asked for', () => {
    const shares = [share, { ...share, name: 'm1', follows: true }];
    const steps = containerSharePlan({ ...input, shares }).steps ?? [];
    const set = steps.flatMap(({ mountSetattr }) => (mountSetattr ? [mountSetattr] : []));
    const { PROPAGATION_PRIVATE, PROPAGATION_SLAVE } = bulkhead.plan.v1.Propagation;
    expect(set.slice(0, 2)).toMatchObject([
      { propagation: PROPAGATION_PRIVATE, propagationRecursive: true },
      { propagation: PROPAGATION_SLAVE, propagationRecursive: true },
    ]);
  });

  it('has its slots apart from those of its root file system', () => {
    const mounts = [{ type: 'overlay', source: 'overlay', options: ['lowerdir=/a:/b'] }];
    const steps = containerSharePlan({ ...input, rootfsMounts: mounts, shares: [share, share] }).steps ?? [];
    const taken = steps.flatMap(({ openTree, fsMount }) => [openTree?.slot, fsMount?.slot]);
    const slots = taken.filter((slot) => slot !== undefined && slot !== null);
    expect(new Set(slots).size).toBe(slots.length);
    expect(Math.min(...slots)).toBe(1);
  });

  it('has no root there when that is an image', () => {
    const steps = containerSharePlan({ ...input, rootfs: undefined, shares: [share] }).steps ?? [];
    expect(steps.flatMap(({ attach }) => (attach ? [attach.target] : []))).toEqual(['/c4/m0']);
  });

  it('is taken away by name', () => {
    const { steps = [] } = containerUnsharePlan({
      id: 'c1',
      daemonPid: 55,
      paths: ['c4/rootfs', 'c3/m0'],
    });
    expect(steps).toEqual([
      { joinNamespace: { pid: 55, types: CLONE_NEWNS } },
      { unmount: { path: '/c4/rootfs' } },
      { unmount: { path: '/c3/m0' } },
      { exit: {} },
    ]);
  });
});
