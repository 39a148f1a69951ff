import { describe, expect, it } from 'vitest';
import { ErrorCode, type RuntimeError } from '../../../base/errors.ts';
import { bulkhead } from '../../../gen/kata.js';
import type { Linux, Spec } from '../../../oci/types.ts';
import { kataProcess, kataResources, kataSpec } from './spec.ts';

const process = {
  user: { uid: 1000, gid: 1000, additionalGids: [5] },
  args: ['sh', '-c', 'id'],
  cwd: '/tmp',
};
const config = (linux: Linux = {}, more: Partial<Spec> = {}): Spec => ({
  ociVersion: '1.2.0',
  process,
  linux,
  ...more,
});

function convert(spec: Spec): { warnings: string[] } & ReturnType<typeof kataSpec> {
  const warnings: string[] = [];
  return { ...kataSpec('web', spec, '/share/c1/rootfs', (message) => warnings.push(message)), warnings };
}

const refusal = (spec: Spec): RuntimeError => {
  try {
    convert(spec);
  } catch (error) {
    return error as RuntimeError;
  }
  return expect.unreachable('it was taken');
};

/** As the agent reads it. */
const onTheWire = (spec: Spec): Record<string, unknown> => {
  const { Spec: Message } = bulkhead.kata.v1;
  return Message.decode(Message.encode(convert(spec).spec).finish()) as unknown as Record<string, unknown>;
};

describe('config.json', () => {
  it('arrives with all that the protocol has a field for', () => {
    const full = config(
      {
        uidMappings: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
        sysctl: { 'net.core.somaxconn': '1024' },
        resources: {
          devices: [{ allow: false, access: 'rwm' }],
          memory: { limit: 64 << 20, swap: -1, disableOOMKiller: true },
          cpu: { shares: 512, quota: 50_000, period: 100_000 },
          pids: { limit: 100 },
        },
        devices: [{ path: '/dev/null', type: 'c', major: 1, minor: 3, fileMode: 0o666 }],
        seccomp: {
          defaultAction: 'SCMP_ACT_ERRNO',
          defaultErrnoRet: 1,
          architectures: ['SCMP_ARCH_X86_64'],
          syscalls: [
            {
              names: ['clone'],
              action: 'SCMP_ACT_ALLOW',
              args: [{ index: 0, value: 2114060288, op: 'SCMP_CMP_MASKED_EQ' }],
            },
            { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
          ],
        },
        maskedPaths: ['/proc/kcore'],
        readonlyPaths: ['/proc/sys'],
        rootfsPropagation: 'private',
      },
      {
        hostname: 'web',
        root: { path: 'rootfs', readonly: true },
        annotations: { a: 'b' },
        process: {
          ...process,
          terminal: true,
          consoleSize: { height: 24, width: 80 },
          env: ['PATH=/bin'],
          capabilities: { bounding: ['CAP_CHOWN'], ambient: [] },
          rlimits: [{ type: 'RLIMIT_NOFILE', hard: 2 ** 64, soft: 1024 }],
          noNewPrivileges: true,
          oomScoreAdj: -500,
        },
        hooks: { startContainer: [{ path: '/hook', args: ['hook'], timeout: 3 }] },
        mounts: [{ destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid'] }],
      },
    );
    expect(onTheWire(full)).toMatchObject({
      ociVersion: '1.2.0',
      hostname: 'web',
      root: { path: '/share/c1/rootfs', readonly: true },
      annotations: { a: 'b' },
      process: {
        terminal: true,
        consoleSize: { height: 24, width: 80 },
        user: { uid: 1000, gid: 1000, additionalGids: [5] },
        args: ['sh', '-c', 'id'],
        env: ['PATH=/bin'],
        cwd: '/tmp',
        capabilities: { bounding: ['CAP_CHOWN'] },
        rlimits: [{ type: 'RLIMIT_NOFILE', hard: 2 ** 64, soft: 1024 }],
        noNewPrivileges: true,
        oomScoreAdj: -500,
      },
      hooks: { startContainer: [{ path: '/hook', args: ['hook'], timeout: 3 }] },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid'] }],
      linux: {
        uidMappings: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
        sysctl: { 'net.core.somaxconn': '1024' },
        cgroupsPath: '/bulkhead/web',
        resources: {
          devices: [{ allow: false, access: 'rwm' }],
          memory: { limit: 64 << 20, swap: -1, disableOOMKiller: true },
          cpu: { shares: 512, quota: 50_000, period: 100_000 },
          pids: { limit: 100 },
        },
        devices: [{ path: '/dev/null', type: 'c', major: 1, minor: 3, fileMode: 0o666 }],
        seccomp: {
          defaultAction: 'SCMP_ACT_ERRNO',
          architectures: ['SCMP_ARCH_X86_64'],
          syscalls: [
            { names: ['clone'], args: [{ index: 0, value: 2114060288, op: 'SCMP_CMP_MASKED_EQ' }] },
            { names: ['clone3'], errnoRet: 38 },
          ],
        },
        maskedPaths: ['/proc/kcore'],
        readonlyPaths: ['/proc/sys'],
        rootfsPropagation: 'private',
      },
    });
    expect(convert(full).warnings).toEqual([]);
  });

  // Numbers are the protocol's, not ours: a wrong one would be another field to the agent.
  it.each<[string, Spec, string]>([
    ['the version', { ociVersion: '1.2.0', linux: {} }, '0a05312e322e30'],
    ['the arguments', config(), '2202736822022d6322026964'],
    ['the cgroup', config(), '2a0d2f62756c6b686561642f776562'],
  ])('has %s where grpc.Spec has it', (_what, spec, hex) => {
    const { Spec: Message } = bulkhead.kata.v1;
    expect(Buffer.from(Message.encode(convert(spec).spec).finish()).toString('hex')).toContain(hex);
  });

  it('leaves namespaces to the agent that it makes itself, and names no path of the host', () => {
    const namespaces: Linux['namespaces'] = [
      { type: 'pid' },
      { type: 'network', path: '/run/netns/x' },
      { type: 'time' },
      { type: 'ipc', path: '/proc/9/ns/ipc' },
      { type: 'mount' },
      { type: 'cgroup' },
    ];
    const { spec, sharesPids } = convert(config({ namespaces }));
    expect(spec.linux?.namespaces).toEqual([
      { type: 'ipc', path: '' },
      { type: 'mount', path: '' },
      { type: 'cgroup', path: '' },
    ]);
    expect(sharesPids).toBe(false);
    expect(convert(config({ namespaces: [{ type: 'pid', path: '/proc/77/ns/pid' }] })).sharesPids).toBe(true);
  });

  it('says "bind" where only an option does', () => {
    const mounts = [{ destination: '/a', source: '/b', type: 'none', options: ['rbind', 'ro'] }];
    expect(convert(config({}, { mounts })).spec.mounts).toEqual([
      { destination: '/a', source: '/b', type: 'bind', options: ['rbind', 'ro'] },
    ]);
  });

  it.each<[field: string, spec: Spec]>([
    ['process.scheduler', config({}, { process: { ...process, scheduler: { policy: 'SCHED_FIFO' } } })],
    ['process.user.umask', config({}, { process: { ...process, user: { ...process.user, umask: 0o77 } } })],
    ['linux.resources.unified["memory.high"]', config({ resources: { unified: { 'memory.high': '1' } } })],
    ['linux.resources.rdma', config({ resources: { rdma: { mlx5_0: { hcaHandles: 1 } } } })],
    ['linux.personality', config({ personality: { domain: 'LINUX32' } })],
    ['linux.timeOffsets', config({ timeOffsets: { monotonic: { secs: 1 } } })],
    [
      'linux.seccomp.defaultErrnoRet',
      config({ seccomp: { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 38 } }),
    ],
    [
      'mounts[0].uidMappings',
      config({}, { mounts: [{ destination: '/a', uidMappings: [{ containerID: 0, hostID: 1, size: 1 }] }] }),
    ],
  ])('is refused for %s', (field, spec) => {
    expect(refusal(spec)).toMatchObject({
      code: ErrorCode.Unimplemented,
      message: `create web: config.json: ${field}: Kata's agent protocol cannot carry it; use our own agent (vm.agent = "bulkhead"), or the namespace wall`,
    });
  });

  it.each<[field: string, spec: Spec]>([
    ['domainname', config({}, { domainname: 'example' })],
    [
      'process.ioPriority',
      config({}, { process: { ...process, ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 4 } } }),
    ],
    ['process.execCPUAffinity', config({}, { process: { ...process, execCPUAffinity: { initial: '0' } } })],
    ['linux.resources.cpu.burst', config({ resources: { cpu: { burst: 1 } } })],
    ['linux.resources.cpu.idle', config({ resources: { cpu: { idle: 1 } } })],
  ])('loses %s, and says so', (field, spec) => {
    expect(convert(spec).warnings).toEqual([
      `config.json: ${field}: Kata's agent protocol cannot carry it; left out`,
    ]);
  });
});

it('an exec and an update are refused in their own name', () => {
  expect(() => kataProcess('exec', 'web/e', { ...process, scheduler: { policy: 'x' } }, () => {})).toThrow(
    /^exec web\/e: config\.json: process\.scheduler: /,
  );
  expect(() => kataResources('update', 'web', { unified: { 'cpu.max': '1' } }, () => {})).toThrow(
    /^update web: config\.json: linux\.resources\.unified/,
  );
});

it('processors and memory nodes of the host are not the guest’s', () => {
  expect(kataResources('update', 'web', { cpu: { cpus: '4-7', mems: '1', shares: 2 } }, () => {})).toEqual({
    devices: [],
    cpu: { shares: 2 },
  });
});
