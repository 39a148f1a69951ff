import { describe, expect, it } from 'vitest';
import type { Spec } from '../../oci/types.ts';
import { applyEdits, completeNodes, mergeEdits, type HostNode } from './edits.ts';
import type { ContainerEdits, DeviceNode } from './types.ts';

const spec = (more: Partial<Spec> = {}): Spec => ({
  ociVersion: '1.3.0',
  process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } },
  ...more,
});
const withEnv = (...env: string[]): Spec =>
  spec({ process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 }, env } });
const withUser = (user: { uid: number; gid: number; additionalGids?: number[] }): Spec =>
  spec({ process: { args: ['true'], cwd: '/', user } });

describe('environment', () => {
  it.each<[string[], string[], string[]]>([
    [[], ['A=1'], ['A=1']],
    [['PATH=/bin'], ['A=1', 'B=2'], ['PATH=/bin', 'A=1', 'B=2']],
    [['A=1', 'B=2', 'C=3'], ['B=x'], ['A=1', 'B=x', 'C=3']],
    [['A=1'], ['B=2', 'B=3'], ['A=1', 'B=3']],
    [['A=1', 'A=2'], ['A=3'], ['A=1', 'A=3']],
    [['A=1'], ['A='], ['A=']],
    [['AB=1'], ['A=2'], ['AB=1', 'A=2']],
    [['A'], ['A=2'], ['A=2']],
    [['A=x=y'], ['A=z=w'], ['A=z=w']],
    [['A=1'], [], ['A=1']],
  ])('%j with %j is %j', (env, added, expected) => {
    expect(applyEdits(withEnv(...env), { env: added }).process?.env).toEqual(expected);
  });
});

describe('device nodes', () => {
  const rule = { allow: true, type: 'c', major: 195, minor: 0, access: 'rwm' };
  const node: DeviceNode = { path: '/dev/x', type: 'c', major: 195, minor: 0, fileMode: 0o666 };
  const plain = { path: '/dev/x', type: 'c', major: 195, minor: 0, fileMode: 0o666 };

  it.each<[string, DeviceNode, Spec, object[], object[]]>([
    ['a node', node, spec(), [plain], [rule]],
    ['read only', { ...node, permissions: 'r' }, spec(), [plain], [{ ...rule, access: 'r' }]],
    ['all permissions by an empty text', { ...node, permissions: '' }, spec(), [plain], [rule]],
    ['no permissions', { ...node, permissions: 'none' }, spec(), [plain], []],
    ['a block device', { ...node, type: 'b' }, spec(), [{ ...plain, type: 'b' }], [{ ...rule, type: 'b' }]],
    [
      'a fifo, without a rule',
      { path: '/dev/x', type: 'p' },
      spec(),
      [{ path: '/dev/x', type: 'p', major: 0, minor: 0 }],
      [],
    ],
    ['an unbuffered device, without a rule', { ...node, type: 'u' }, spec(), [{ ...plain, type: 'u' }], []],
    [
      'the container’s user as owner',
      node,
      withUser({ uid: 7, gid: 8 }),
      [{ ...plain, uid: 7, gid: 8 }],
      [rule],
    ],
    ['root as owner by leaving it out', node, withUser({ uid: 0, gid: 0 }), [plain], [rule]],
    [
      'the owner that is given',
      { ...node, uid: 0, gid: 44 },
      withUser({ uid: 7, gid: 8 }),
      [{ ...plain, uid: 0, gid: 44 }],
      [rule],
    ],
    [
      'a node in the place of another',
      node,
      spec({
        linux: {
          devices: [
            { path: '/dev/x', type: 'b', major: 1, minor: 2 },
            { path: '/dev/y', type: 'p' },
          ],
        },
      }),
      [{ path: '/dev/y', type: 'p' }, plain],
      [rule],
    ],
    [
      'a rule behind those that are there',
      node,
      spec({ linux: { resources: { devices: [{ allow: false, access: 'rwm' }] } } }),
      [plain],
      [{ allow: false, access: 'rwm' }, rule],
    ],
  ])('gives %s', (_, added, before, devices, rules) => {
    const edited = applyEdits(before, { deviceNodes: [added] });
    expect(edited.linux?.devices).toEqual(devices);
    expect(edited.linux?.resources?.devices ?? []).toEqual(rules);
  });
});

describe('what the host says of nodes', () => {
  const host = (path: string): HostNode | undefined =>
    (
      ({
        '/dev/nv': { type: 'c', major: 195, minor: 3, mode: 0o666 },
        '/dev/sda': { type: 'b', major: 8, minor: 0, mode: 0o660 },
        '/dev/pipe': { type: 'p', major: 0, minor: 0, mode: 0o600 },
      }) as Record<string, HostNode>
    )[path];

  it.each<[DeviceNode, DeviceNode]>([
    [
      { path: '/dev/nv' },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 195, minor: 3, fileMode: 0o666 },
    ],
    [
      { path: '/dev/c', hostPath: '/dev/nv' },
      { path: '/dev/c', hostPath: '/dev/nv', type: 'c', major: 195, minor: 3, fileMode: 0o666 },
    ],
    [
      { path: '/dev/nv', hostPath: '', type: '' },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 195, minor: 3, fileMode: 0o666 },
    ],
    [
      { path: '/dev/sda' },
      { path: '/dev/sda', hostPath: '/dev/sda', type: 'b', major: 8, minor: 0, fileMode: 0o660 },
    ],
    [
      { path: '/dev/nv', type: 'c' },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 195, minor: 3, fileMode: 0o666 },
    ],
    [
      { path: '/dev/nv', type: 'c', major: 1, minor: 2 },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 1, minor: 2, fileMode: 0o666 },
    ],
    [
      { path: '/dev/nv', major: 1, minor: 2 },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 1, minor: 2, fileMode: 0o666 },
    ],
    [
      { path: '/dev/nv', fileMode: 0o600 },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'c', major: 195, minor: 3, fileMode: 0o600 },
    ],
    [
      { path: '/dev/gone', type: 'c', major: 1, minor: 2 },
      { path: '/dev/gone', hostPath: '/dev/gone', type: 'c', major: 1, minor: 2 },
    ],
    [
      { path: '/dev/gone', type: 'p' },
      { path: '/dev/gone', hostPath: '/dev/gone', type: 'p' },
    ],
    [{ path: '/dev/pipe' }, { path: '/dev/pipe', hostPath: '/dev/pipe', type: 'p', fileMode: 0o600 }],
    [
      { path: '/dev/nv', type: 'b', major: 1, minor: 2 },
      { path: '/dev/nv', hostPath: '/dev/nv', type: 'b', major: 1, minor: 2, fileMode: 0o666 },
    ],
  ])('completes %j', (node, expected) => {
    expect(completeNodes({ deviceNodes: [node] }, host).deviceNodes).toEqual([expected]);
  });

  it.each<[DeviceNode, string]>([
    [{ path: '/dev/gone' }, 'device node /dev/gone: not on this host, or no device node'],
    [
      { path: '/dev/nv', hostPath: '/dev/gone' },
      'device node /dev/gone: not on this host, or no device node',
    ],
    [{ path: '/dev/gone', type: 'c' }, 'device node /dev/gone: not on this host, or no device node'],
    [{ path: '/dev/gone', major: 1 }, 'device node /dev/gone: not on this host, or no device node'],
    [{ path: '/dev/sda', type: 'c' }, 'device node /dev/sda: is of type b, the spec says c'],
  ])('refuses %j', (node, message) => {
    expect(() => completeNodes({ deviceNodes: [node] }, host)).toThrow(message);
  });
});

describe('mounts', () => {
  const mount = (containerPath: string, more: object = {}): { hostPath: string; containerPath: string } => ({
    hostPath: `/host${containerPath}`,
    containerPath,
    ...more,
  });
  const destinations = (before: string[], added: string[]): string[] =>
    (
      applyEdits(spec({ mounts: before.map((destination) => ({ destination })) }), {
        mounts: added.map((path) => mount(path)),
      }).mounts ?? []
    ).map(({ destination }) => destination);

  it.each<[string[], string[], string[]]>([
    [[], ['/a'], ['/a']],
    [['/proc', '/dev', '/dev/pts'], ['/x'], ['/proc', '/dev', '/x', '/dev/pts']],
    [['/dev/pts', '/dev'], ['/a/b/c'], ['/dev', '/dev/pts', '/a/b/c']],
    [['/a', '/b'], ['/a'], ['/b', '/a']],
    [['/a', '/a'], ['/a'], ['/a', '/a']],
    [['/a//b/', '/c'], ['/d/./e'], ['/c', '/a//b/', '/d/./e']],
    [['/x/y', '/z'], [], ['/x/y', '/z']],
    [['/c', '/b', '/a'], ['/d'], ['/c', '/b', '/a', '/d']],
  ])('%j with %j is %j', (before, added, expected) => {
    expect(destinations(before, added)).toEqual(expected);
  });

  it.each<[object, boolean, object]>([
    [{ options: ['ro', 'bind'] }, false, { options: ['ro', 'bind'] }],
    [{ options: ['ro', 'bind'], type: 'bind' }, false, { options: ['ro', 'bind'], type: 'bind' }],
    [{ options: ['ro', 'bind'] }, true, { options: ['ro', 'bind', 'idmap'] }],
    [{ options: ['rbind', 'ro'] }, true, { options: ['rbind', 'ro', 'ridmap'] }],
    [{ type: 'bind' }, true, { type: 'bind', options: ['idmap'] }],
    [{ options: ['bind', 'idmap'] }, true, { options: ['bind', 'idmap'] }],
    [{ options: ['rbind', 'ridmap'] }, true, { options: ['rbind', 'ridmap'] }],
    [{ type: 'tmpfs', options: ['size=1m'] }, true, { type: 'tmpfs', options: ['size=1m'] }],
    [{ type: '' }, false, {}],
    [{ options: [] }, false, { options: [] }],
  ])('mounts %j, in a user namespace: %s', (given, inUserNamespace, expected) => {
    const before = spec(inUserNamespace ? { linux: { namespaces: [{ type: 'user' }] } } : {});
    const edited = applyEdits(before, { mounts: [mount('/a', given)] });
    expect(edited.mounts).toEqual([{ source: '/host/a', destination: '/a', ...expected }]);
  });
});

describe('everything else', () => {
  it.each([
    'prestart',
    'createRuntime',
    'createContainer',
    'startContainer',
    'poststart',
    'poststop',
  ] as const)('appends a %s hook', (hookName) => {
    const before = spec({ hooks: { [hookName]: [{ path: '/first' }] } });
    const hook = { hookName, path: '/h', args: ['h', '-x'], env: ['A=b'], timeout: 3 };
    expect(applyEdits(before, { hooks: [hook] }).hooks).toEqual({
      [hookName]: [{ path: '/first' }, { path: '/h', args: ['h', '-x'], env: ['A=b'], timeout: 3 }],
    });
  });

  it('takes a timeout of zero for none', () => {
    const { hooks } = applyEdits(spec(), { hooks: [{ hookName: 'poststop', path: '/h', timeout: 0 }] });
    expect(hooks).toEqual({ poststop: [{ path: '/h' }] });
  });

  it.each<[{ uid: number; gid: number; additionalGids?: number[] }, number[], number[] | undefined]>([
    [{ uid: 0, gid: 0 }, [44, 109], [44, 109]],
    [{ uid: 0, gid: 0, additionalGids: [44] }, [44, 109], [44, 109]],
    [{ uid: 0, gid: 0, additionalGids: [1] }, [0, 2, 2], [1, 2]],
    [{ uid: 0, gid: 0 }, [], undefined],
  ])('adds to %j the groups %j', (user, groups, expected) => {
    expect(applyEdits(withUser(user), { additionalGids: groups }).process?.user.additionalGids).toEqual(
      expected,
    );
  });

  it('names net devices and replaces the class of service', () => {
    const before = spec({
      linux: { netDevices: { eth0: { name: 'a' } }, intelRdt: { closID: 'old', l3CacheSchema: 'L3:0=1' } },
    });
    const edited = applyEdits(before, {
      netDevices: [{ hostInterfaceName: 'eth1', name: 'b' }],
      intelRdt: { closID: 'new' },
    });
    expect(edited.linux).toEqual({
      netDevices: { eth0: { name: 'a' }, eth1: { name: 'b' } },
      intelRdt: { closID: 'new' },
    });
  });

  it('leaves the configuration that it was given alone', () => {
    const before = spec({ mounts: [{ destination: '/b/c' }, { destination: '/a' }], linux: { devices: [] } });
    const copy = structuredClone(before);
    const edits: ContainerEdits = {
      env: ['A=b'],
      deviceNodes: [{ path: '/dev/x', type: 'c', major: 1, minor: 2 }],
      mounts: [{ hostPath: '/x', containerPath: '/x' }],
      additionalGids: [4],
      hooks: [{ hookName: 'poststop', path: '/h' }],
    };
    const edited = applyEdits(before, edits);
    expect(before).toEqual(copy);
    expect(edited).not.toEqual(copy);
  });

  it('merges in order, and the last class of service wins', () => {
    const merged = mergeEdits([
      { env: ['A=1'], intelRdt: { closID: 'one' } },
      { env: ['B=2'], additionalGids: [1], intelRdt: { closID: 'two' } },
      { mounts: [] },
    ]);
    expect(merged).toEqual({ env: ['A=1', 'B=2'], additionalGids: [1], intelRdt: { closID: 'two' } });
  });

  it('refuses two devices that move the same interface', () => {
    const edits = mergeEdits([
      { netDevices: [{ hostInterfaceName: 'eth1', name: 'a' }] },
      { netDevices: [{ hostInterfaceName: 'eth1', name: 'b' }] },
    ]);
    expect(() => applyEdits(spec(), edits)).toThrow(
      'edits of all devices: netDevices: hostInterfaceName "eth1" is given twice',
    );
  });
});
