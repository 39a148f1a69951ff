import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
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
  (await prepareGpu(spec, tools))?.prepareRoot(root, (message) => said.push(message));
  return said;
};

it('does nothing for a container without a GPU', async () => {
  expect(await prepareGpu({ ociVersion: '1.2.0', mounts: [] }, tools)).toBeUndefined();
});

it('hides from the driver’s libraries that they may make nodes', async () => {
  const prepared = await prepareGpu(spec, tools);
  const mount = prepared?.spec.mounts?.at(-1);
  expect(mount).toMatchObject({ destination: '/proc/driver/nvidia/params', type: 'bind' });
  expect(mount?.options).toContain('ro');
  expect(readFileSync(mount?.source ?? '', 'utf8')).toBe('ModifyDeviceFiles: 0\n');
});

it('mounts no parameters where the driver has none', async () => {
  rmSync(join(dir, 'proc'), { recursive: true });
  expect((await prepareGpu(spec, tools))?.spec.mounts).toHaveLength(3);
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
