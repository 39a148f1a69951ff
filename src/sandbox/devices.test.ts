import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import type { Spec } from '../oci/types.ts';
import type { Wall } from './backend.ts';
import { injectDevices } from './devices.ts';

const dir = mkdtempSync(join(tmpdir(), 'bh-inject-'));
beforeAll(() => {
  const devices = [
    { name: 'a', containerEdits: { env: ['A=1'], hooks: [{ hookName: 'poststop', path: '/h' }] } },
  ];
  writeFileSync(
    join(dir, 'x.json'),
    JSON.stringify({ cdiVersion: '0.5.0', kind: 'vendor.com/gpu', devices }),
  );
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const specWith = (annotations: Record<string, string>): Spec => ({
  ociVersion: '1.3.0',
  root: { path: 'rootfs' },
  process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } },
  annotations,
  linux: { namespaces: [{ type: 'mount' }] },
});
const asked = { 'cdi.k8s.io/x': 'vendor.com/gpu=a' };
const request = (wall: Wall, names: string[] = []): Parameters<typeof injectDevices>[1] => ({
  op: 'create',
  id: 'web-1',
  wall,
  names,
  specDirs: [dir],
});

describe('devices by name', () => {
  it('leaves a configuration without them alone', async () => {
    const spec = specWith({ other: 'x' });
    for (const wall of ['namespace', 'vm', 'sentry'] as const) {
      expect((await injectDevices(spec, request(wall))).spec).toBe(spec);
    }
  });

  it('adds those of names and annotations once', async () => {
    const { spec } = await injectDevices(specWith(asked), request('namespace', ['vendor.com/gpu=a']));
    expect(spec.process?.env).toEqual(['A=1']);
    expect(spec.hooks?.poststop).toEqual([{ path: '/h' }]);
  });

  it('refuses persistent memory that is none, unless that is wanted', async () => {
    const mounts = [{ hostPath: dir, containerPath: '/pmem', options: ['bind'] }];
    const devices = [{ name: 'p', containerEdits: { mounts } }];
    const file = { cdiVersion: '0.5.0', kind: 'bulkhead.io/pmem', devices };
    writeFileSync(join(dir, 'pmem.json'), JSON.stringify(file));
    const names = ['bulkhead.io/pmem=p'];
    await expect(injectDevices(specWith({}), request('namespace', names))).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: `create web-1: PMEM volume ${dir}: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable; use a directory of an ext4 or xfs on /dev/pmemN that is mounted with dax=always; bulkhead devices names them, or set the annotation bulkhead.io/allow-nonpersistent=true to go on`,
    });
    const allowed = specWith({ 'bulkhead.io/allow-nonpersistent': 'true' });
    const { spec } = await injectDevices(allowed, request('namespace', names));
    expect(spec.mounts?.at(-1)?.destination).toBe('/pmem');
  });

  it('leaves functions of the host to the wall, each once', async () => {
    const names = ['bulkhead.io/vfio=0000:41:00.0', 'vendor.com/gpu=a', 'bulkhead.io/vfio=0000:41:00.0'];
    const { spec, functions } = await injectDevices(specWith({}), request('vm', names));
    expect(spec.process?.env).toEqual(['A=1']);
    expect(functions).toEqual(['0000:41:00.0']);
  });

  it.each(['io.kubernetes.cri.sandbox-id', 'io.kubernetes.cri-o.Name'])(
    'leaves annotations to whoever wrote %s',
    async (key) => {
      const spec = specWith({ ...asked, [key]: 'x' });
      expect((await injectDevices(spec, request('namespace'))).spec).toBe(spec);
      expect((await injectDevices(spec, request('sentry'))).spec).toBe(spec);
    },
  );

  it.each<[Wall, Record<string, string>, string[], ErrorCode, string]>([
    [
      'sentry',
      asked,
      [],
      ErrorCode.FailedPrecondition,
      'create web-1: CDI device vendor.com/gpu=a: the sentry wall passes no devices of the host; use the namespace or vm wall',
    ],
    [
      'sentry',
      {},
      ['vendor.com/gpu=a', 'vendor.com/gpu=b'],
      ErrorCode.FailedPrecondition,
      'create web-1: CDI devices vendor.com/gpu=a, vendor.com/gpu=b: the sentry wall passes no devices of the host; use the namespace or vm wall',
    ],
    [
      'namespace',
      { 'cdi.k8s.io/x': 'vendor.com/gpu=a, vendor.com/gpu=b' },
      [],
      ErrorCode.InvalidArgument,
      'create web-1: annotation cdi.k8s.io/x: vendor " vendor.com" must start with a letter',
    ],
    [
      'vm',
      {},
      ['bulkhead.io/vfio=41:00.0'],
      ErrorCode.InvalidArgument,
      'create web-1: device bulkhead.io/vfio=41:00.0: not a PCI address like 0000:41:00.0',
    ],
    [
      'sentry',
      {},
      ['bulkhead.io/vfio=0000:41:00.0'],
      ErrorCode.FailedPrecondition,
      'create web-1: CDI device bulkhead.io/vfio=0000:41:00.0: the sentry wall passes no devices of the host; use the namespace or vm wall',
    ],
    [
      'namespace',
      {},
      ['vendor.com/gpu=b'],
      ErrorCode.InvalidArgument,
      `create web-1: CDI device vendor.com/gpu=b: not found; known of this kind: a; specs read: ${dir}/x.json; see what there is with: bulkhead devices cdi list`,
    ],
  ])('refuses in the %s wall %j with %j', async (wall, annotations, names, code, message) => {
    await expect(injectDevices(specWith(annotations), request(wall, names))).rejects.toMatchObject({
      code,
      message,
    });
  });
});
