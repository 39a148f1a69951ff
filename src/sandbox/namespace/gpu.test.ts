import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { libraryFlags, readCache, writeCache } from '../../devices/gpu/ld_cache.ts';
import { addon } from '../../native/index.ts';
import type { Spec } from '../../oci/types.ts';
import { prepareGpu, type GpuTools } from './gpu.ts';

let dir = '';
let root = '';
let tools: GpuTools;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-gpu-'));
  root = join(dir, 'root');
  mkdirSync(join(root, 'etc'), { recursive: true });
  mkdirSync(join(dir, 'proc/driver/nvidia'), { recursive: true });
  writeFileSync(join(dir, 'proc/driver/nvidia/params'), 'ModifyDeviceFiles: 1\n');
  tools = { dir: join(dir, 'files'), addon, proc: join(dir, 'proc') };
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const flags = libraryFlags() ?? 0;
const lib = '/usr/lib64';
const spec: Spec = {
  ociVersion: '1.2.0',
  mounts: [`${lib}/libcuda.so.570.86.15`, `${lib}/libcuda.so.1`, `${lib}/libEGL_nvidia.so.0`].map(
    (destination) => ({ destination, type: 'bind', source: destination }),
  ),
  linux: { devices: [{ path: '/dev/nvidia1', type: 'c' }] },
};
const cache = (): unknown => readCache(readFileSync(join(root, 'etc/ld.so.cache')));
const prepare = async (): Promise<string[]> => {
  const said: string[] = [];
  (await prepareGpu('web', spec, tools))?.prepareRoot(root, (message) => said.push(message));
  return said;
};

it('does nothing for a container without a GPU', async () => {
  expect(await prepareGpu('web', { ociVersion: '1.2.0', mounts: [] }, tools)).toBeUndefined();
});

it('hides from the driver’s libraries that they may make nodes', async () => {
  const prepared = await prepareGpu('web', spec, tools);
  const mount = prepared?.spec.mounts?.at(-1);
  expect(mount).toMatchObject({ destination: '/proc/driver/nvidia/params', type: 'bind' });
  expect(mount?.options).toContain('ro');
  expect(readFileSync(mount?.source ?? '', 'utf8')).toBe('ModifyDeviceFiles: 0\n');
});

describe('libraries that somebody else has mounted', () => {
  const given = (name: string): Spec => ({
    ...spec,
    mounts: [{ destination: `${lib}/${name}`, type: 'bind', source: '/x' }],
  });
  beforeEach(() =>
    writeFileSync(
      join(dir, 'proc/driver/nvidia/version'),
      'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n',
    ),
  );

  it('are refused when another driver is loaded, and nothing is made', async () => {
    await expect(prepareGpu('web', given('libnvidia-ml.so.570.86.15'), tools)).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message:
        'create web: libraries of NVIDIA driver 570.86.15 are mounted but 580.95.05 is loaded; the CDI spec that they come from is stale; write it anew with the program that made it: nvidia-ctk cdi generate, or bulkhead devices cdi generate',
    });
    expect(existsSync(tools.dir)).toBe(false);
  });

  it.each(['libnvidia-ml.so.580.95.05', 'libcuda.so.590.10'])('pass: %s', async (name) => {
    expect(await prepareGpu('web', given(name), tools)).toBeDefined();
  });
});

it('mounts no parameters where the driver has none', async () => {
  rmSync(join(dir, 'proc'), { recursive: true });
  expect((await prepareGpu('web', spec, tools))?.spec.mounts).toHaveLength(3);
});

it('adds the driver’s libraries to the image’s cache, and the profile', async () => {
  const own = { name: 'libc.so.6', path: '/lib/libc.so.6', flags };
  writeFileSync(join(root, 'etc/ld.so.cache'), writeCache([own]));
  expect(await prepare()).toEqual([]);
  expect(cache()).toEqual([
    { name: 'libcuda.so.1', path: `${lib}/libcuda.so.1`, flags },
    own,
    { name: 'libEGL_nvidia.so.0', path: `${lib}/libEGL_nvidia.so.0`, flags },
  ]);
  const profile = join(root, 'etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf');
  expect(readFileSync(profile, 'utf8')).toContain('"EGLVisibleDGPUDevices",0x2]');
});

it.each([
  [undefined, `/lib:/usr/local/lib:/usr/lib:${lib}\n`],
  ['/lib\n/opt/lib\n', `/lib:/opt/lib:${lib}\n`],
  [`/lib:${lib}\n`, `/lib:${lib}\n`],
])('adds their directory to the list of musl’s loader: %j', async (present, expected) => {
  mkdirSync(join(root, 'lib'));
  writeFileSync(join(root, 'lib/ld-musl-x86_64.so.1'), '');
  const list = join(root, 'etc/ld-musl-x86_64.path');
  if (present !== undefined) writeFileSync(list, present);
  expect(await prepare()).toEqual([]);
  expect(readFileSync(list, 'utf8')).toBe(expected);
});

it('makes no such list in an image with another loader', async () => {
  mkdirSync(join(root, 'lib'));
  writeFileSync(join(root, 'lib/ld-linux.so.2'), '');
  expect(await prepare()).toEqual([]);
  expect(readdirSync(join(root, 'etc')).sort()).toEqual(['ld.so.cache', 'nvidia']);
});

it('prefers an image’s newer CUDA libraries, found through its own links', async () => {
  mkdirSync(join(root, 'opt/cuda-13/compat'), { recursive: true });
  mkdirSync(join(root, 'usr/local'), { recursive: true });
  symlinkSync('/opt/cuda-13', join(root, 'usr/local/cuda'));
  for (const name of ['libcuda.so.1', 'libcuda.so.580.65.06'])
    writeFileSync(join(root, 'opt/cuda-13/compat', name), '');
  expect(await prepare()).toEqual([]);
  expect(cache()).toContainEqual({
    name: 'libcuda.so.1',
    path: '/usr/local/cuda/compat/libcuda.so.1',
    flags,
  });
});

it('follows no link out of the root', async () => {
  writeFileSync(join(dir, 'outside'), 'kept');
  symlinkSync(join(dir, 'outside'), join(root, 'etc/ld.so.cache'));
  symlinkSync(dir, join(root, 'etc/nvidia'));
  // Beneath the root that link leads nowhere.
  expect(await prepare()).toEqual([expect.stringContaining('10-container.conf not written')]);
  expect(existsSync(join(dir, 'nvidia-application-profiles-rc.d'))).toBe(false);
  expect(readFileSync(join(dir, 'outside'), 'utf8')).toBe('kept');
  expect(cache()).toHaveLength(2);
});

it('says what could not be written, and the container starts', async () => {
  rmSync(join(root, 'etc'), { recursive: true });
  writeFileSync(join(root, 'etc'), 'a file');
  const said = await prepare();
  expect(said).toHaveLength(2);
  expect(said[0]).toMatch(/^GPU: \/etc\/ld\.so\.cache not written: .*ENOTDIR|not a directory/i);
});
