import { describe, expect, it } from 'vitest';
import type { Spec } from '../../oci/types.ts';
import { libraryFlags, readCache } from './ld_cache.ts';
import {
  compatibilityLibraries,
  hiddenParameters,
  newCache,
  nvidiaPreparation,
  profileText,
} from './prepare.ts';

const flags = libraryFlags('x64') ?? 0;
const spec = (destinations: string[], changes: Partial<Spec> = {}): Spec => ({
  ociVersion: '1.2.0',
  mounts: destinations.map((destination) => ({ destination, type: 'bind', source: destination })),
  ...changes,
});
const lib = '/usr/lib64';
const driver = [`${lib}/libcuda.so.570.86.15`, `${lib}/libcuda.so.1`, `${lib}/libcuda.so`];
const hook = (path: string, ...args: string[]): { path: string; args: string[] } => ({ path, args });

describe('what is left to do', () => {
  it('is nothing without the driver', () => {
    expect(nvidiaPreparation(spec([`${lib}/libcudart.so.12`, '/proc']))).toBeUndefined();
  });

  it('is everything when CDI has mounts only', () => {
    const linux = { devices: [0, 3].map((minor) => ({ path: `/dev/nvidia${minor}`, type: 'c' })) };
    expect(nvidiaPreparation(spec([...driver, `${lib}/libEGL_nvidia.so.0`], { linux }), 'x64')).toEqual({
      driver: '570.86.15',
      libraries: [
        { name: 'libcuda.so.1', path: `${lib}/libcuda.so.1`, flags },
        { name: 'libEGL_nvidia.so.0', path: `${lib}/libEGL_nvidia.so.0`, flags },
      ],
      compatibility: true,
      parameters: true,
      profile: 0b1001n,
    });
  });

  it.each([
    ['/usr/bin/nvidia-cdi-hook', ['nvidia-cdi-hook']],
    ['/usr/bin/nvidia-ctk', ['nvidia-ctk', 'hook']],
  ])('is what the hooks of %s do not do', (path, before) => {
    const createContainer = [
      'update-ldcache',
      'enable-cuda-compat',
      'disable-device-node-modification',
      'update-application-profile',
    ].map((name) => hook(path, ...before, name));
    expect(nvidiaPreparation(spec(driver, { hooks: { createContainer } }))).toEqual({
      driver: '570.86.15',
      libraries: [],
      compatibility: false,
      parameters: false,
      profile: undefined,
    });
  });

  it('takes no other program’s hook for the toolkit’s', () => {
    const createContainer = [hook('/opt/mine', 'mine', 'update-ldcache')];
    expect(nvidiaPreparation(spec(driver, { hooks: { createContainer } }), 'x64')?.libraries).toHaveLength(1);
  });
});

describe('forward compatibility', () => {
  const names = ['libcuda.so', 'libcuda.so.1', 'libcuda.so.575.51.03', 'libnvidia-nvvm.so.4', 'README'];
  it('puts newer libraries of the image before the driver’s', () => {
    expect(compatibilityLibraries(names, '570.86.15', 'x64')).toEqual([
      { name: 'libcuda.so.1', path: '/usr/local/cuda/compat/libcuda.so.1', flags },
      { name: 'libnvidia-nvvm.so.4', path: '/usr/local/cuda/compat/libnvidia-nvvm.so.4', flags },
    ]);
  });
  it.each(['575.10', '580.65.06'])('leaves them when the driver is as new: %s', (loaded) => {
    expect(compatibilityLibraries(names, loaded, 'x64')).toEqual([]);
  });
  it('does without them', () => {
    expect(compatibilityLibraries([], '570.86.15', 'x64')).toEqual([]);
  });
});

it('the driver makes no device nodes in a container', () => {
  const text = 'ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n';
  expect(hiddenParameters(text)).toBe(
    'ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileUID: 0\n',
  );
});

it('the application profile names the GPUs by bits', () => {
  expect(JSON.parse(profileText(9n).replace('0x9', '9'))).toEqual({
    profiles: [{ name: '_container_', settings: ['EGLVisibleDGPUDevices', 9] }],
    rules: [{ pattern: [], profile: '_container_' }],
  });
});

it.each([undefined, Buffer.from('damaged')])('an image without a cache gets one: %s', (present) => {
  const added = [{ name: 'libcuda.so.1', path: '/x', flags }];
  expect(readCache(newCache(present, added))).toEqual(added);
});
