import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Spec } from '../../oci/types.ts';
import { type CdiRegistry, kindsOf, readRegistry } from './registry.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-cdi-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Files by path below the root: a spec whose device NAME sets DEVICE_NAME to the given value. */
type Tree = Record<string, string | { kind?: string; devices: Record<string, string>; shared?: string }>;

const write = (tree: Tree): string[] => {
  for (const [path, content] of Object.entries(tree)) {
    const file = join(root, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(specOf(content)));
  }
  return [join(root, 'etc'), join(root, 'run')];
};
const specOf = (content: Exclude<Tree[string], string>): object => ({
  cdiVersion: '0.5.0',
  kind: content.kind ?? 'vendor.com/gpu',
  devices: Object.entries(content.devices).map(([name, value]) => ({
    name,
    containerEdits: { env: [`DEVICE_${name}=${value}`] },
  })),
  ...(content.shared === undefined ? {} : { containerEdits: { env: [`SHARED_${content.shared}=1`] } }),
});

const oci: Spec = { ociVersion: '1.3.0', process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } } };
const inject = (registry: CdiRegistry, ...names: string[]): string[] =>
  registry.inject(oci, names, () => undefined).process?.env ?? [];
const errorsOf = (registry: CdiRegistry): Record<string, string[]> =>
  Object.fromEntries(
    [...registry.errors].map(([path, list]) => [
      path.replace(`${root}/`, ''),
      list.map((text) => text.replaceAll(`${root}/`, '')),
    ]),
  );

describe('directories', () => {
  it.each<[string, Tree, string[]]>([
    ['nothing', {}, []],
    ['one file', { 'etc/a.json': { devices: { a: '1' } } }, ['vendor.com/gpu=a']],
    [
      'both directories',
      { 'etc/a.json': { devices: { a: '1' } }, 'run/b.json': { devices: { b: '2' } } },
      ['vendor.com/gpu=a', 'vendor.com/gpu=b'],
    ],
    [
      'YAML',
      {
        'etc/a.yaml':
          'cdiVersion: 0.5.0\nkind: vendor.com/gpu\ndevices: [{name: 0, containerEdits: {env: [A=b]}}]',
      },
      ['vendor.com/gpu=0'],
    ],
    [
      'other names',
      {
        'etc/a.yml': { devices: { a: '1' } },
        'etc/b.JSON': { devices: { b: '1' } },
        'etc/c': { devices: { c: '1' } },
        'etc/.json/x': '',
        'etc/d.json.bak': { devices: { d: '1' } },
      },
      [],
    ],
    [
      'directories below',
      { 'etc/sub/a.json': { devices: { a: '1' } }, 'etc/sub.json/a.json': { devices: { a: '1' } } },
      [],
    ],
    [
      'several kinds',
      {
        'etc/a.json': { kind: 'vv/xx', devices: { a: '1' } },
        'etc/b.json': { kind: 'vv/yy', devices: { a: '1' } },
      },
      ['vv/xx=a', 'vv/yy=a'],
    ],
    ['a hidden file', { 'etc/.a.json': { devices: { a: '1' } } }, ['vendor.com/gpu=a']],
  ])('reads %s', async (_, tree, names) => {
    const registry = await readRegistry(write(tree));
    expect(registry.names).toEqual(names);
    expect(errorsOf(registry)).toEqual({});
  });

  it.each<[string, Tree, string[], Record<string, string[]>]>([
    [
      'a later directory overrides an earlier one',
      { 'etc/a.json': { devices: { a: 'etc' } }, 'run/a.json': { devices: { a: 'run' } } },
      ['DEVICE_a=run'],
      {},
    ],
    [
      'a file that is wrong is left out',
      { 'etc/a.json': { devices: { a: 'etc' } }, 'run/a.json': '{' },
      ['DEVICE_a=etc'],
      { 'run/a.json': ['run/a.json: is not JSON'] },
    ],
    [
      'a file with an unknown field is left out',
      {
        'etc/a.json': { devices: { a: 'etc' } },
        'etc/b.json': '{"cdiVersion":"0.5.0","kind":"vv/cc","devices":[],"x":1}',
      },
      ['DEVICE_a=etc'],
      { 'etc/b.json': ['etc/b.json: x: unknown field'] },
    ],
    [
      'a conflict of other devices does not matter',
      { 'etc/a.json': { devices: { a: '1', b: '1' } }, 'etc/b.json': { devices: { b: '2' } } },
      ['DEVICE_a=1'],
      {
        'etc/a.json': ['conflicting device "vendor.com/gpu=b" (specs etc/b.json, etc/a.json)'],
        'etc/b.json': ['conflicting device "vendor.com/gpu=b" (specs etc/b.json, etc/a.json)'],
      },
    ],
  ])('%s', async (_, tree, env, errors) => {
    const registry = await readRegistry(write(tree));
    expect(inject(registry, 'vendor.com/gpu=a')).toEqual(env);
    expect(errorsOf(registry)).toEqual(errors);
  });

  it.each<[string, Tree]>([
    ['of one directory', { 'etc/a.json': { devices: { a: '1' } }, 'etc/b.json': { devices: { a: '2' } } }],
    [
      'of three files',
      {
        'etc/a.json': { devices: { a: '1' } },
        'etc/b.json': { devices: { a: '2' } },
        'etc/c.yaml':
          'cdiVersion: 0.5.0\nkind: vendor.com/gpu\ndevices: [{name: a, containerEdits: {env: [A=b]}}]',
      },
    ],
    [
      'that a higher directory overrides, as the reference has it',
      {
        'etc/a.json': { devices: { a: '1' } },
        'etc/b.json': { devices: { a: '2' } },
        'run/c.json': { devices: { a: '3' } },
      },
    ],
  ])('gives nobody a conflicting device %s', async (_, tree) => {
    const registry = await readRegistry(write(tree));
    expect(registry.names).toEqual([]);
    expect(() => inject(registry, 'vendor.com/gpu=a')).toThrow('CDI device vendor.com/gpu=a: not found');
  });

  it('reads links to files and refuses what is no file', async () => {
    const dirs = write({ 'store/a.json': { devices: { a: '1' } }, 'etc/x.txt': '' });
    symlinkSync(join(root, 'store/a.json'), join(root, 'etc/a.json'));
    symlinkSync('/dev/zero', join(root, 'etc/z.json'));
    symlinkSync('gone', join(root, 'etc/gone.yaml'));
    const registry = await readRegistry(dirs);
    expect(registry.names).toEqual(['vendor.com/gpu=a']);
    expect(Object.keys(errorsOf(registry))).toEqual(['etc/gone.yaml', 'etc/z.json']);
    expect(errorsOf(registry)['etc/z.json']).toEqual(['etc/z.json: is not a regular file']);
  });

  it('reads only the files of the kinds asked for', async () => {
    const dirs = write({
      'etc/a.json': { kind: 'vv/xx', devices: { a: '1' } },
      'etc/b.json': { kind: 'vv/yy', devices: { a: '1' } },
      'etc/c.json':
        '{"cdiVersion":"0.5.0","kind":"vv\\/xx","devices":[{"name":"c","containerEdits":{"env":["A=b"]}}]}',
      'etc/d.json': '{',
    });
    const registry = await readRegistry(dirs, { kinds: kindsOf(['vv/xx=a', 'nonsense']) });
    expect(registry.names).toEqual(['vv/xx=a', 'vv/xx=c']);
    expect(errorsOf(registry)).toEqual({});
  });
});

describe('injection', () => {
  const tree: Tree = {
    'etc/a.json': { devices: { a: '1', b: '2' }, shared: 'A' },
    'etc/c.json': { kind: 'vendor.com/net', devices: { c: '3' }, shared: 'C' },
    'etc/d.json': { devices: { d: '4' } },
  };

  it.each<[string[], string[]]>([
    [[], []],
    [['vendor.com/gpu=a'], ['SHARED_A=1', 'DEVICE_a=1']],
    [
      ['vendor.com/gpu=b', 'vendor.com/gpu=a'],
      ['SHARED_A=1', 'DEVICE_b=2', 'DEVICE_a=1'],
    ],
    [
      ['vendor.com/gpu=a', 'vendor.com/gpu=a'],
      ['SHARED_A=1', 'DEVICE_a=1'],
    ],
    [
      ['vendor.com/gpu=a', 'vendor.com/net=c', 'vendor.com/gpu=b'],
      ['SHARED_A=1', 'DEVICE_a=1', 'SHARED_C=1', 'DEVICE_c=3', 'DEVICE_b=2'],
    ],
    [
      ['vendor.com/gpu=d', 'vendor.com/gpu=a'],
      ['DEVICE_d=4', 'SHARED_A=1', 'DEVICE_a=1'],
    ],
  ])('of %j sets %j', async (names, env) => {
    expect(inject(await readRegistry(write(tree)), ...names)).toEqual(env);
  });

  it.each<[string[], string]>([
    [
      ['vendor.com/gpu=x'],
      'CDI device vendor.com/gpu=x: not found; known of this kind: a, b, d; specs read: ROOT/etc/a.json, ROOT/etc/d.json; files with errors: ROOT/etc/z.json: is not JSON',
    ],
    [
      ['vendor.com/gpu=a', 'vendor.com/gpu=x', 'vendor.com/gpu=y'],
      'CDI devices vendor.com/gpu=x, vendor.com/gpu=y: not found; known of this kind: a, b, d; specs read: ROOT/etc/a.json, ROOT/etc/d.json; files with errors: ROOT/etc/z.json: is not JSON',
    ],
    [
      ['other.com/gpu=a'],
      'CDI device other.com/gpu=a: not found; no spec file describes other.com/gpu; files with errors: ROOT/etc/z.json: is not JSON',
    ],
    [['/dev/null'], 'CDI device /dev/null: "/dev/null" is not of the form vendor/class=name'],
  ])('of %j is refused', async (names, message) => {
    const registry = await readRegistry(write({ ...tree, 'etc/z.json': '{' }));
    expect(() => inject(registry, ...names)).toThrow(message.replaceAll('ROOT', root));
  });
});
