import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { MachineLaunch } from './hypervisor.ts';
import { machinePlan } from './machine_plan.ts';
import { kvmGroups, machineCredentials } from './credentials.ts';
import { testConfig } from './testing/config.ts';

const launch: MachineLaunch = {
  config: testConfig(),
  program: '/usr/bin/vmm',
  args: ['vmm', '-x'],
  env: ['A=1'],
  listen: [
    { path: '/run/m/agent.sock', descriptor: 4 },
    { path: '/run/m/qmp.sock', descriptor: 3 },
  ],
  files: [{ path: '/run/m/console', flags: 1, descriptor: 5 }],
  credentials: { uid: 1000, gid: 1001, additionalGids: [7] },
  stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
  agent: { path: '/run/m/agent.sock' },
  ready: Promise.resolve(),
  release: () => {},
};

describe('machinePlan', () => {
  it('opens descriptors in their order, enters the pod, and gives up all rights', () => {
    const steps = [{ joinNamespace: { path: '/run/netns/p', types: 0x40000000 } }];
    expect(machinePlan(launch, { id: 'vm', steps, namespaces: 0x20000 })).toEqual({
      version: 1,
      id: 'vm',
      steps: [
        { listen: { path: '/run/m/qmp.sock', index: 0 } },
        { listen: { path: '/run/m/agent.sock', index: 1 } },
        { openFile: { path: '/run/m/console', flags: 1, descriptor: 5 } },
        ...steps,
        { clone: { namespaces: 0x20000 } },
        { umask: { mask: 0o077 } },
        { boundingSet: { mask: 0 } },
        { user: { uid: 1000, gid: 1001, additionalGids: [7] } },
        { capabilities: { effective: 0, permitted: 0, inheritable: 0, ambient: 0 } },
        { noNewPrivs: {} },
        { exec: { file: '/usr/bin/vmm', args: ['vmm', '-x'], env: ['A=1'], preserveFds: 3 } },
      ],
    });
  });

  it('ends with its launcher where nobody else would end it', () => {
    const steps = machinePlan(launch, { id: 'vm', diesWithParent: true }).steps ?? [];
    const names = steps.map((step) => Object.keys(step)[0]);
    expect(names.slice(-3)).toEqual(['noNewPrivs', 'parentDeathSignal', 'exec']);
  });

  it('hands over no descriptors where there are none', () => {
    const plan = machinePlan({ ...launch, listen: [], files: [], credentials: undefined }, { id: 'vm' });
    expect(plan.steps?.at(-1)?.exec?.preserveFds).toBe(0);
    expect(plan.steps?.some(({ user }) => user !== undefined)).toBe(false);
  });
});

describe('machineCredentials', () => {
  it('are the same for a pod, others for another one, and nobody of the host', () => {
    const first = machineCredentials('default', 'pod-1', [109]);
    expect(machineCredentials('default', 'pod-1', [109])).toEqual(first);
    expect(machineCredentials('default', 'pod-2').uid).not.toBe(first.uid);
    expect(machineCredentials('other', 'pod-1').uid).not.toBe(first.uid);
    expect(first.uid).toBeGreaterThanOrEqual(0x70000000);
    expect(first.uid).toBeLessThan(0x80000000);
    expect(first).toMatchObject({ gid: first.uid, additionalGids: [109] });
  });

  it('gives the machine nodes of its own, and locks its memory, before the rights go', () => {
    const access = { nodes: [{ path: '/dev/vfio/12', major: 245, minor: 3 }], lockedBytes: 2 ** 28 };
    const steps = machinePlan({ ...launch, access }, { id: 'vm', namespaces: 0x40000000 }).steps ?? [];
    const from = steps.findIndex(({ rlimit }) => rlimit);
    expect(steps.slice(from, from + 7)).toEqual([
      { rlimit: { resource: 8, soft: -1, hard: -1 } },
      { clone: { namespaces: 0x40020000 } },
      { setPropagation: { path: '/', propagation: 2, recursive: true } },
      { fsMount: { slot: 1, fstype: 'tmpfs', source: 'tmpfs', options: ['mode=755', 'size=64k'] } },
      { attach: { slot: 1, target: '/dev/vfio', make: 0, hostTarget: true } },
      { enterRoot: { path: '/' } },
      { mknod: { target: '/dev/vfio/12', type: 0, major: 245, minor: 3, mode: 0o600, uid: 1000, gid: 1001 } },
    ]);
  });

  it('locks no more than may be locked, and makes no nodes for descriptors', () => {
    const access = { nodes: [], lockedBytes: 2 ** 28 };
    const steps = machinePlan({ ...launch, access }, { id: 'vm', lockLimit: 2 ** 30 }).steps ?? [];
    expect(steps).toContainEqual({ rlimit: { resource: 8, soft: 2 ** 30, hard: 2 ** 30 } });
    expect(steps.some(({ mknod, fsMount }) => mknod ?? fsMount)).toBe(false);
  });
});

describe('kvmGroups', () => {
  const file = (mode: number, gid: number): string => {
    const path = join(mkdtempSync(join(tmpdir(), 'bh-kvm-')), 'kvm');
    writeFileSync(path, '');
    chownSync(path, 0, gid);
    chmodSync(path, mode);
    onTestFinished(() => rmSync(dirname(path), { recursive: true }));
    return path;
  };

  it.runIf(process.getuid?.() === 0).each([
    ['0660 and a group of its own', 0o660, 109, [109]],
    ['0666', 0o666, 109, [109]],
    ['0600', 0o600, 109, []],
    ['0640', 0o640, 109, []],
    ["root's group", 0o660, 0, []],
  ])('of a device that is %s', (_, mode, gid, groups) => {
    expect(kvmGroups(file(mode, gid))).toEqual(groups);
  });

  it('are none where there is no device', () => {
    expect(kvmGroups('/nowhere/kvm')).toEqual([]);
  });
});
