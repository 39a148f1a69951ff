import { describe, expect, it } from 'vitest';
import { parseCdiSpec } from './parse.ts';
import type { CdiSpec, ContainerEdits } from './types.ts';
import { minimumVersion } from './version.ts';

const env: ContainerEdits = { env: ['A=b'] };
const device = { name: 'dev0', containerEdits: env };
const base = { cdiVersion: '1.1.0', kind: 'vendor.com/class', devices: [device] };

const json = (value: unknown): Promise<CdiSpec> =>
  parseCdiSpec(JSON.stringify(value), 'json', '/etc/cdi/x.json');
const withEdits = (edits: unknown): unknown => ({
  ...base,
  devices: [{ name: 'dev0', containerEdits: edits }],
});
const withNode = (node: object): unknown => withEdits({ deviceNodes: [{ path: '/dev/x', ...node }] });
const withMount = (mount: object): unknown =>
  withEdits({ mounts: [{ hostPath: '/a', containerPath: '/b', ...mount }] });
const withHook = (hook: object): unknown =>
  withEdits({ hooks: [{ hookName: 'createContainer', path: '/bin/true', ...hook }] });

describe('specs that are right', () => {
  it.each<[string, unknown]>([
    ['the smallest', base],
    ['edits of its own', { ...base, containerEdits: { env: ['X=y'] } }],
    ['empty edits of its own', { ...base, containerEdits: {} }],
    ['annotations', { ...base, annotations: { 'vendor.com/x': 'y', plain: '' } }],
    ['annotations of a device', { ...base, devices: [{ ...device, annotations: { a: 'b' } }] }],
    ['several devices', { ...base, devices: [device, { ...device, name: 'dev1' }] }],
    ['a leading v', { ...base, cdiVersion: 'v1.1.0' }],
    ['a dot in the class', { ...base, kind: 'vendor.com/cl.ass' }],
    ['a device that starts with a digit', { ...base, devices: [{ ...device, name: '0' }] }],
    ['a bare device node', withNode({})],
    [
      'a full device node',
      withNode({
        hostPath: '/dev/y',
        type: 'c',
        major: 1,
        minor: 2,
        fileMode: 0o644,
        permissions: 'rw',
        uid: 1,
        gid: 2,
      }),
    ],
    ['a block device', withNode({ type: 'b', major: 8, minor: 1 })],
    ['a fifo', withNode({ type: 'p' })],
    ['an unbuffered device', withNode({ type: 'u', major: 1, minor: 3 })],
    ['a device node of any type', withNode({ type: '' })],
    ['no permissions', withNode({ permissions: 'none' })],
    ['default permissions', withNode({ permissions: '' })],
    ['the largest numbers', withNode({ type: 'c', major: 4095, minor: 1048575 })],
    ['null for absent', withNode({ type: null, uid: null })],
    ['a mount', withMount({})],
    ['a mount with options', withMount({ type: 'bind', options: ['ro', 'rbind'] })],
    ...['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'].map(
      (hookName): [string, unknown] => [`a ${hookName} hook`, withHook({ hookName })],
    ),
    ['a full hook', withHook({ args: ['true', 'x'], env: ['A='], timeout: 5 })],
    [
      'net devices',
      withEdits({
        netDevices: [
          { hostInterfaceName: 'eth1', name: 'net0' },
          { hostInterfaceName: 'eth2', name: 'net1' },
        ],
      }),
    ],
    ['a class of service', withEdits({ intelRdt: { closID: 'guaranteed', l3CacheSchema: 'L3:0=f' } })],
    ['the root class of service', withEdits({ intelRdt: { closID: '/' } })],
    ['schemata', withEdits({ intelRdt: { schemata: ['L3:0=f'], enableMonitoring: true } })],
    ['groups', withEdits({ additionalGids: [0, 44, 4294967295] })],
    ['an environment variable with an empty value', withEdits({ env: ['A='] })],
    ['an environment variable with more than one =', withEdits({ env: ['A=b=c'] })],
  ])('takes %s', async (_, spec) => {
    await expect(json(spec)).resolves.toMatchObject({ devices: expect.any(Array) });
  });
});

describe('specs that are wrong', () => {
  it.each<[unknown, string]>([
    [[], 'top level: must be an object, is a list'],
    [null, 'top level: must be an object, is null'],
    ['text', 'top level: must be an object, is "text"'],
    [{}, 'cdiVersion: is required and missing'],
    [{ ...base, cdiVersion: undefined }, 'cdiVersion: is required and missing'],
    [{ ...base, cdiVersion: 1.1 }, 'cdiVersion: must be a string, is 1.1'],
    [{ ...base, cdiVersion: '' }, 'cdiVersion: invalid version ""'],
    [{ ...base, cdiVersion: '0.0.9' }, 'cdiVersion: invalid version "0.0.9"'],
    [{ ...base, cdiVersion: '1.2.0' }, 'cdiVersion: invalid version "1.2.0"'],
    [{ ...base, cdiVersion: 'vv1.1.0' }, 'cdiVersion: invalid version "vv1.1.0"'],
    [{ ...base, cdiVersion: '1.1' }, 'cdiVersion: invalid version "1.1"'],
    [{ ...base, kind: undefined }, 'kind: is required and missing'],
    [{ ...base, kind: 'class' }, 'kind: kind "class" is not of the form vendor/class'],
    [{ ...base, kind: '0endor/class' }, 'kind: vendor "0endor" must start with a letter'],
    [{ ...base, kind: 'vendor/class=x' }, 'kind: class "class=x" may hold letters, digits and _ - . only'],
    [{ ...base, devices: undefined }, 'devices: is required and missing'],
    [{ ...base, devices: [] }, 'devices: must not be empty'],
    [{ ...base, devices: {} }, 'devices: must be a list, is an object'],
    [{ ...base, devices: [null] }, 'devices[0]: must be an object, is null'],
    [{ ...base, devices: [{ name: 'a' }] }, 'devices[0].containerEdits: is required and missing'],
    [{ ...base, devices: [{ containerEdits: env }] }, 'devices[0].name: is required and missing'],
    [{ ...base, devices: [{ ...device, name: '' }] }, 'devices[0].name: device name is empty'],
    [
      { ...base, devices: [{ ...device, name: '-a' }] },
      'devices[0].name: device name "-a" must start with a letter or digit',
    ],
    [{ ...base, devices: [device, device] }, 'devices[1].name: "dev0" is given twice'],
    [
      { ...base, devices: [{ ...device, containerEdits: {} }] },
      'devices[0].containerEdits: is empty: the device would change nothing',
    ],
    [
      { ...base, devices: [{ ...device, containerEdits: { env: [], mounts: [] } }] },
      'devices[0].containerEdits: is empty: the device would change nothing',
    ],
    [{ ...base, extra: 1 }, 'extra: unknown field'],
    [{ ...base, CdiVersion: '1.1.0' }, 'CdiVersion: unknown field'],
    [{ ...base, devices: [{ ...device, extra: 1 }] }, 'devices[0].extra: unknown field'],
    [{ ...base, annotations: { '': 'x' } }, 'annotations: "" is no annotation\'s name'],
    [{ ...base, annotations: { 'a b': 'x' } }, 'annotations: "a b" is no annotation\'s name'],
    [{ ...base, annotations: { '/a': 'x' } }, 'annotations: "/a" is no annotation\'s name'],
    [{ ...base, annotations: { 'a/b/c': 'x' } }, 'annotations: "a/b/c" is no annotation\'s name'],
    [{ ...base, annotations: { ['a'.repeat(64)]: 'x' } }, "is no annotation's name"],
    [{ ...base, annotations: { a: 1 } }, 'annotations["a"]: must be a string, is 1'],
    [
      { ...base, annotations: { a: 'x'.repeat(200_000), b: 'x'.repeat(70_000) } },
      'annotations: hold 270002 characters, at most 262144 are possible',
    ],
    [
      { ...base, devices: [{ ...device, annotations: { '-': 'x' } }] },
      'devices[0].annotations: "-" is no annotation\'s name',
    ],
    [withEdits({ extra: [] }), 'devices[0].containerEdits.extra: unknown field'],
    [withEdits({ env: ['A'] }), 'devices[0].containerEdits.env[0]: must be of the form NAME=value'],
    [withEdits({ env: ['=b'] }), 'devices[0].containerEdits.env[0]: must be of the form NAME=value'],
    [withEdits({ env: [''] }), 'devices[0].containerEdits.env[0]: must be of the form NAME=value'],
    [withEdits({ env: 'A=b' }), 'devices[0].containerEdits.env: must be a list, is "A=b"'],
    [withEdits({ env: ['A=b\0c'] }), 'devices[0].containerEdits.env[0]: contains a zero byte'],
    [withEdits({ deviceNodes: [{}] }), 'deviceNodes[0].path: is required and missing'],
    [withNode({ path: '' }), 'deviceNodes[0].path: must not be empty'],
    [withNode({ type: 'x' }), 'deviceNodes[0].type: must be one of "", "b", "c", "u", "p"'],
    [withNode({ major: -1 }), 'deviceNodes[0].major: must be from 0 to 4095, is -1'],
    [withNode({ minor: -1 }), 'deviceNodes[0].minor: must be from 0 to 1048575, is -1'],
    [withNode({ major: 4096 }), 'deviceNodes[0].major: must be from 0 to 4095, is 4096'],
    [withNode({ minor: 1.5 }), 'deviceNodes[0].minor: must be an integer, is 1.5'],
    [withNode({ major: '1' }), 'deviceNodes[0].major: must be an integer, is "1"'],
    [
      withNode({ permissions: 'rwx' }),
      'deviceNodes[0].permissions: must be made of r, w and m, or be "none"',
    ],
    [
      withNode({ permissions: 'None' }),
      'deviceNodes[0].permissions: must be made of r, w and m, or be "none"',
    ],
    [withNode({ fileMode: -1 }), 'deviceNodes[0].fileMode: must be from 0 to 4294967295, is -1'],
    [withNode({ uid: 2 ** 32 }), 'deviceNodes[0].uid: must be from 0 to 4294967295, is 4294967296'],
    [withNode({ extra: true }), 'deviceNodes[0].extra: unknown field'],
    [withNode({ hostpath: '/dev/y' }), 'deviceNodes[0].hostpath: unknown field'],
    [withMount({ hostPath: '' }), 'mounts[0].hostPath: must not be empty'],
    [withMount({ containerPath: '' }), 'mounts[0].containerPath: must not be empty'],
    [withEdits({ mounts: [{ hostPath: '/a' }] }), 'mounts[0].containerPath: is required and missing'],
    [withMount({ options: 'ro' }), 'mounts[0].options: must be a list, is "ro"'],
    [withMount({ readonly: true }), 'mounts[0].readonly: unknown field'],
    [withHook({ hookName: 'createcontainer' }), 'hooks[0].hookName: must be one of'],
    [withHook({ hookName: '' }), 'hooks[0].hookName: must be one of'],
    [withHook({ path: '' }), 'hooks[0].path: must not be empty'],
    [withHook({ env: ['A'] }), 'hooks[0].env[0]: must be of the form NAME=value'],
    [withHook({ timeout: '5' }), 'hooks[0].timeout: must be an integer, is "5"'],
    [withHook({ timeout: -1 }), 'hooks[0].timeout: must be from 0 to'],
    [withHook({ dir: '/' }), 'hooks[0].dir: unknown field'],
    [
      withEdits({ netDevices: [{ hostInterfaceName: 'eth0' }] }),
      'netDevices[0].name: is required and missing',
    ],
    [
      withEdits({ netDevices: [{ hostInterfaceName: '', name: 'n' }] }),
      'netDevices[0].hostInterfaceName: must not be empty',
    ],
    [
      withEdits({
        netDevices: [
          { hostInterfaceName: 'e', name: 'a' },
          { hostInterfaceName: 'e', name: 'b' },
        ],
      }),
      'netDevices: hostInterfaceName "e" is given twice',
    ],
    [
      withEdits({
        netDevices: [
          { hostInterfaceName: 'e', name: 'a' },
          { hostInterfaceName: 'f', name: 'a' },
        ],
      }),
      'netDevices: name "a" is given twice',
    ],
    [withEdits({ intelRdt: { closID: '.' } }), 'intelRdt.closID: must be a file name or "/"'],
    [withEdits({ intelRdt: { closID: '..' } }), 'intelRdt.closID: must be a file name or "/"'],
    [withEdits({ intelRdt: { closID: 'a/b' } }), 'intelRdt.closID: must be a file name or "/"'],
    [withEdits({ intelRdt: { closID: 'a\nb' } }), 'intelRdt.closID: must be a file name or "/"'],
    [withEdits({ intelRdt: { closID: 'x'.repeat(4096) } }), 'intelRdt.closID: must be a file name or "/"'],
    [withEdits({ intelRdt: { enableCMT: true } }), 'intelRdt.enableCMT: unknown field'],
    [withEdits({ additionalGids: [-1] }), 'additionalGids[0]: must be from 0 to 4294967295, is -1'],
    [withEdits({ additionalGIDs: [1] }), 'containerEdits.additionalGIDs: unknown field'],
    [
      { ...base, containerEdits: { env: ['A'] } },
      '/etc/cdi/x.json: containerEdits.env[0]: must be of the form NAME=value',
    ],
  ])('refuses %j', async (spec, message) => {
    await expect(json(spec)).rejects.toThrow(message);
  });

  it.each([
    ['', 'is not JSON'],
    ['{', 'is not JSON'],
    ["{'a': 1}", 'is not JSON'],
    [`${JSON.stringify(base)} x`, 'is not JSON'],
    [`{"kind": "a/b", "kind": "c/d"}`, 'field "kind" is given twice'],
    [`{"devices": [{"name": "a", "na\\u006de": "b"}]}`, 'field "name" is given twice'],
    ['['.repeat(40) + ']'.repeat(40), 'is nested deeper than 32 levels'],
    [' '.repeat(8 * 1024 * 1024 + 1), 'characters long, at most 8388608 are read'],
  ])('refuses the text %.40j', async (text, message) => {
    await expect(parseCdiSpec(text, 'json', '/etc/cdi/x.json')).rejects.toThrow(
      `/etc/cdi/x.json: ${message}`.replace('x.json: char', 'x.json: is 8388609 char'),
    );
  });
});

describe('versions', () => {
  it.each<[string, object]>([
    ['0.3.0', base],
    ['0.4.0', withMount({ type: 'bind' }) as object],
    ['0.3.0', withMount({ type: '' }) as object],
    ['0.5.0', withNode({ hostPath: '/dev/y' }) as object],
    ['0.5.0', { ...base, devices: [{ ...device, name: '0' }] }],
    ['0.6.0', { ...base, annotations: { a: 'b' } }],
    ['0.3.0', { ...base, annotations: {} }],
    ['0.6.0', { ...base, devices: [{ ...device, annotations: { a: 'b' } }] }],
    ['0.6.0', { ...base, kind: 'vendor.com/cl.ass' }],
    ['0.7.0', withEdits({ intelRdt: { closID: 'x' } }) as object],
    ['0.7.0', withEdits({ additionalGids: [5] }) as object],
    ['0.7.0', { ...base, containerEdits: { additionalGids: [5] } }],
    ['1.1.0', withEdits({ netDevices: [{ hostInterfaceName: 'e', name: 'n' }] }) as object],
    ['1.1.0', withEdits({ intelRdt: { schemata: ['L3:0=f'] } }) as object],
    ['1.1.0', withEdits({ intelRdt: { enableMonitoring: true } }) as object],
    ['0.7.0', withEdits({ intelRdt: { enableMonitoring: false } }) as object],
  ])('needs %s for %j', async (version, spec) => {
    expect(minimumVersion(spec as CdiSpec)).toBe(version);
    await expect(json({ ...spec, cdiVersion: version })).resolves.toBeDefined();
    const older = ['0.1.0', '0.2.0', '0.3.0', '0.4.0', '0.5.0', '0.6.0', '1.0.0']
      .filter((one) => one < version)
      .at(-1);
    await expect(json({ ...spec, cdiVersion: older })).rejects.toThrow(
      `/etc/cdi/x.json: cdiVersion: the spec version must be at least v${version}`,
    );
  });

  it.each(['0.3.0', '0.4.0', '0.5.0', '0.6.0', '0.7.0', '0.8.0', '1.0.0', '1.1.0', 'v0.8.0'])(
    'knows %s',
    async (cdiVersion) => {
      await expect(json({ ...base, cdiVersion })).resolves.toMatchObject({ cdiVersion });
    },
  );
});

describe('YAML', () => {
  const yaml = (text: string): Promise<CdiSpec> => parseCdiSpec(text, 'yaml', '/etc/cdi/x.yaml');
  const around = (edits: string, name = 'dev0'): string =>
    `cdiVersion: "1.1.0"\nkind: vendor.com/class\ndevices:\n- name: ${name}\n  containerEdits:\n    ${edits}\n`;
  const edits = async (text: string): Promise<ContainerEdits> =>
    (await yaml(around(text))).devices[0]?.containerEdits ?? {};

  it.each<[string, ContainerEdits]>([
    ['deviceNodes: [{path: /dev/x, fileMode: 0666}]', { deviceNodes: [{ path: '/dev/x', fileMode: 0o666 }] }],
    [
      'deviceNodes: [{path: /dev/x, fileMode: 0o640}]',
      { deviceNodes: [{ path: '/dev/x', fileMode: 0o640 }] },
    ],
    ['deviceNodes: [{path: /dev/x, fileMode: 438}]', { deviceNodes: [{ path: '/dev/x', fileMode: 438 }] }],
    [
      'deviceNodes: [{path: /dev/x, major: 0xC3, minor: 2_55}]',
      { deviceNodes: [{ path: '/dev/x', major: 195, minor: 255 }] },
    ],
    ['deviceNodes: [{path: /dev/x, uid: ~}]', { deviceNodes: [{ path: '/dev/x' }] }],
    ['env: [A=1, "B=two"]', { env: ['A=1', 'B=two'] }],
    ['intelRdt: {enableMonitoring: yes}', { intelRdt: { enableMonitoring: true } }],
    ['intelRdt: {enableMonitoring: false}', { intelRdt: { enableMonitoring: false } }],
    ['additionalGids: [44, 0x10]', { additionalGids: [44, 16] }],
    [
      'mounts: [{hostPath: /1, containerPath: /2, options: [ro, "no"]}]',
      { mounts: [{ hostPath: '/1', containerPath: '/2', options: ['ro', 'no'] }] },
    ],
    [
      'hooks: [{hookName: prestart, path: /h, args: [1, true, 0x1], timeout: 3}]',
      { hooks: [{ hookName: 'prestart', path: '/h', args: ['1', 'true', '0x1'], timeout: 3 }] },
    ],
  ])('reads %s', async (text, expected) => {
    expect(await edits(text)).toEqual(expected);
  });

  it.each(['0', '0:1', '12', '1e3', 'true', '"0"', 'null0', '2024-01-01'])(
    'keeps the device name %s a text',
    async (name) => {
      const spec = await yaml(around('env: [A=b]', name));
      expect(spec.devices[0]?.name).toBe(name.replaceAll('"', ''));
    },
  );

  it('follows anchors', async () => {
    const text = `cdiVersion: 0.6.0\nkind: vendor.com/class\ndevices:\n- name: a\n  containerEdits: &e\n    env: [A=b]\n- name: b\n  containerEdits: *e\n`;
    const spec = await yaml(text);
    expect(spec.devices[1]?.containerEdits).toEqual({ env: ['A=b'] });
  });

  it('takes JSON as YAML', async () => {
    expect(await yaml(JSON.stringify(base))).toEqual(base);
  });

  it.each([
    ['a: [', 'is not YAML: line'],
    ['kind: a\nkind: b', 'is not YAML: line 2: Map keys must be unique'],
    [around('extra: 1'), 'devices[0].containerEdits.extra: unknown field'],
    [around('deviceNodes: [{path: /dev/x, major: "1"}]'), 'deviceNodes[0].major: must be an integer, is "1"'],
    [
      around('deviceNodes: [{path: /dev/x, fileMode: rw}]'),
      'deviceNodes[0].fileMode: must be an integer, is "rw"',
    ],
    ['', 'top level: must be an object, is null'],
    ['- a', 'top level: must be an object, is a list'],
    ['cdiVersion: *gone', 'is not YAML'],
    ['a: 1\n---\nb: 2\n', 'is not YAML'],
    ['devices: &a [*a]', 'is nested deeper than 32 levels'],
    [`a: ${'['.repeat(40)}${']'.repeat(40)}`, 'is nested deeper than 32 levels'],
  ])('refuses %j', async (text, message) => {
    await expect(yaml(text)).rejects.toThrow(message);
  });

  it('bounds aliases of aliases', async () => {
    const levels = ['a: &a [x,x,x,x,x,x,x,x,x,x]'];
    for (const [from, to] of ['ab', 'bc', 'cd', 'de', 'ef', 'fg']) {
      levels.push(`${to}: &${to} [${Array.from({ length: 10 }, () => `*${from}`).join(',')}]`);
    }
    await expect(yaml(levels.join('\n'))).rejects.toThrow('holds more than 200000 values');
  });
});
