/**
 * Specs and requests for which what other programs write is compared with ours, and how a program is asked without
 * anything of it staying on the machine.
 */
const hooks = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'];
export const specs: Record<string, object> = {
  'nodes.json': {
    cdiVersion: '0.7.0',
    kind: 'bulkhead.test/nodes',
    containerEdits: { env: ['SHARED=1', 'PATH=/changed'] },
    devices: [
      {
        name: 'zero',
        containerEdits: { deviceNodes: [{ path: '/dev/made/zero', hostPath: '/dev/zero', fileMode: 0o640 }] },
      },
      {
        name: 'full',
        containerEdits: {
          deviceNodes: [
            {
              path: '/dev/made/zero',
              type: 'b',
              major: 8,
              minor: 3,
              fileMode: 0o600,
              permissions: 'r',
              uid: 5,
              gid: 6,
            },
          ],
        },
      },
      {
        name: 'fifo',
        containerEdits: { deviceNodes: [{ path: '/dev/made/fifo', type: 'p', fileMode: 0o600 }] },
      },
      {
        name: 'unbuffered',
        containerEdits: {
          deviceNodes: [{ path: '/dev/made/u', type: 'u', major: 1, minor: 5, fileMode: 0o666 }],
        },
      },
      { name: 'null', containerEdits: { deviceNodes: [{ path: '/dev/null', fileMode: 0o666 }] } },
    ],
  },
  'mounts.yaml': {
    cdiVersion: '0.5.0',
    kind: 'bulkhead.test/mounts',
    devices: [
      {
        name: 'deep',
        containerEdits: {
          mounts: [{ hostPath: '/usr/share', containerPath: '/a/b/c', options: ['ro', 'rbind'] }],
        },
      },
      {
        name: 'shallow',
        containerEdits: {
          mounts: [{ hostPath: '/usr', containerPath: '/a', type: 'bind', options: ['bind', 'ro'] }],
        },
      },
      {
        name: 'replacing',
        containerEdits: { mounts: [{ hostPath: '/tmp', containerPath: '/dev/shm', options: ['rbind'] }] },
      },
    ],
  },
  'rest.json': {
    cdiVersion: '0.7.0',
    kind: 'bulkhead.test/rest',
    containerEdits: { additionalGids: [7, 0, 7], env: ['A=1'] },
    devices: [
      {
        name: 'hooks',
        containerEdits: {
          hooks: hooks.map((hookName) => ({
            hookName,
            path: `/bin/${hookName}`,
            args: [hookName, '-x'],
            env: ['K=v'],
            timeout: 9,
          })),
        },
      },
      {
        name: 'rdt',
        containerEdits: { intelRdt: { closID: 'x', l3CacheSchema: 'L3:0=f', memBwSchema: 'MB:0=50' } },
      },
      { name: 'groups', containerEdits: { additionalGids: [44, 10], env: ['A=2', 'B=3'] } },
    ],
  },
};
export const nodes = (...names: string[]): string[] => names.map((name) => `bulkhead.test/nodes=${name}`);
export const mounts = (...names: string[]): string[] => names.map((name) => `bulkhead.test/mounts=${name}`);
export const rest = (...names: string[]): string[] => names.map((name) => `bulkhead.test/rest=${name}`);

type Request = [names: string[], flags: string[]];

/** What a client of any age can be asked: devices, and options of the command line that meet their edits. */
export const commonRequests: Request[] = [
  [nodes('zero'), []],
  [nodes('zero', 'full'), []],
  [nodes('full', 'zero'), []],
  [nodes('fifo', 'unbuffered', 'null'), []],
  [nodes('full'), ['--env', 'SHARED=old', '--env', 'LAST=1']],
  [mounts('deep'), []],
  [mounts('deep', 'shallow'), []],
  [mounts('shallow', 'deep', 'replacing'), []],
  [rest('hooks'), []],
];

export const requests: Request[] = [
  ...commonRequests,
  [nodes('zero'), ['--user', '1000:1001']],
  [mounts('deep'), ['--mount', 'type=bind,src=/opt,dst=/a/b/c,options=bind:ro']],
  [rest('groups'), []],
  [rest('groups', 'hooks', 'rdt'), []],
  [
    [...rest('rdt'), ...nodes('zero'), ...mounts('deep'), ...rest('groups')],
    ['--user', '12:34'],
  ],
];
