import { describe, expect, it } from 'vitest';
import { podSpec } from '../../../test/fakes/sandbox.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { LinuxResources, Spec } from '../../oci/types.ts';
import { cpuLimit, machineSize, memoryFor, memoryLimit, templateSize, type SizingConfig } from './sizing.ts';

const MIB = 2 ** 20;
const config: SizingConfig = {
  memoryMib: 256,
  overheadMib: 64,
  maxMemoryMib: 4096,
  vcpus: 1,
  maxVcpus: 4,
  annotations: ['io.katacontainers.config.hypervisor.*'],
};
const HOST_CPUS = 8;
const size = (spec: Spec, more: Partial<SizingConfig> = {}): ReturnType<typeof machineSize> =>
  machineSize('web', spec, { ...config, ...more }, HOST_CPUS);
const withLimits = (resources: LinuxResources): Spec => podSpec({ linux: { ...podSpec().linux, resources } });
const annotated = (annotations: Record<string, string>): Spec => podSpec({ annotations });
const kata = (key: string, value: string): Spec =>
  annotated({ [`io.katacontainers.config.hypervisor.${key}`]: value });

function refusal(run: () => unknown): RuntimeError {
  try {
    run();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('not refused');
}

describe('a machine', () => {
  it('has the default size without limits, and may grow to the largest', () => {
    expect(size(podSpec())).toEqual({ memoryMib: 256, maxMemoryMib: 4096, vcpus: 1, maxVcpus: 4 });
  });

  it.each([
    // With 64 for the guest itself, in blocks of 128.
    [600 * MIB, 768],
    [64 * MIB, 256],
    [4032 * MIB, 4096],
  ])('has memory for a limit of %i bytes', (limit, memoryMib) => {
    expect(size(withLimits({ memory: { limit } })).memoryMib).toBe(memoryMib);
  });

  it.each([-1, 0, 2 ** 63])('takes %d for no limit of memory', (limit) => {
    expect(memoryLimit({ memory: { limit } })).toBeUndefined();
    expect(size(withLimits({ memory: { limit } })).memoryMib).toBe(256);
  });

  it.each<[NonNullable<LinuxResources['cpu']>, number]>([
    [{ quota: 150_000, period: 100_000 }, 2],
    [{ quota: 150_000 }, 2],
    [{ quota: 50_000, period: 100_000 }, 1],
    [{ quota: -1, period: 100_000 }, 1],
    // More than the template is made for, and never more than the host has.
    [{ quota: 600_000, period: 100_000 }, 6],
    [{ quota: 6_400_000, period: 100_000 }, HOST_CPUS],
  ])('has processors for %j', (cpu, vcpus) => {
    expect(size(withLimits({ cpu })).vcpus).toBe(vcpus);
  });

  it('may have as many processors as are configured on a smaller host', () => {
    const spec = withLimits({ cpu: { quota: 400_000, period: 100_000 } });
    expect(machineSize('web', spec, config, 2)).toMatchObject({ vcpus: 4, maxVcpus: 4 });
  });

  it.each([
    [256, 4096, 4096],
    [200, 4096, 4168],
    [256, 1000, 1024],
    [512, 512, 512],
  ])('of %i MiB that may have %i grows in whole blocks up to %i', (memoryMib, maxMemoryMib, largest) => {
    expect(size(podSpec(), { memoryMib, maxMemoryMib }).maxMemoryMib).toBe(largest);
  });

  it.each(['', 'x', '-5', 'NaN', '0'])('does not take %j for a size of the pod', (said) => {
    const pod = annotated({
      'io.kubernetes.cri.sandbox-memory': said,
      'io.kubernetes.cri.sandbox-cpu-quota': said,
      'io.kubernetes.cri.sandbox-cpu-period': said,
    });
    expect(size(pod)).toEqual(size(podSpec()));
    const linux = {
      ...podSpec().linux,
      resources: { memory: { limit: 600 * MIB }, cpu: { quota: 200_000 } },
    };
    expect(size({ ...pod, linux })).toMatchObject({ memoryMib: 768, vcpus: 2 });
  });

  it('has the pod’s size rather than its first container’s', () => {
    const linux = { ...podSpec().linux, resources: { memory: { limit: 64 * MIB }, cpu: { quota: 100_000 } } };
    const annotations = {
      'io.kubernetes.cri.sandbox-memory': String(600 * MIB + 1),
      'io.kubernetes.cri.sandbox-cpu-quota': '300000',
    };
    expect(size(podSpec({ annotations, linux }))).toMatchObject({ memoryMib: 768, vcpus: 3 });
  });

  it('is as large as the pod that CRI tells of with its first container', () => {
    const pod = annotated({
      'io.kubernetes.cri.sandbox-memory': String(1000 * MIB),
      'io.kubernetes.cri.sandbox-cpu-quota': '250000',
      'io.kubernetes.cri.sandbox-cpu-period': '100000',
    });
    expect(size(pod)).toMatchObject({ memoryMib: 1152, vcpus: 3 });
  });

  it('is refused when it would be above the largest', () => {
    const error = refusal(() => size(withLimits({ memory: { limit: 4033 * MIB } })));
    expect(error.code).toBe(ErrorCode.ResourceExhausted);
    expect(error.message).toBe(
      'create web: memory of 4224 MiB: is above the largest machine of 4096 MiB; lower the limit, or raise vm.max_memory_mib',
    );
  });

  it.each([
    [256, 256, 0],
    [768, 256, 512],
    [128, 128, 0],
    // What is plugged is whole blocks, whatever an annotation asks for.
    [700, 256, 512],
    [257, 256, 128],
  ])('of %i MiB is a copy of one of %i that grows by %i', (memoryMib, template, growMib) => {
    const wanted = { ...size(podSpec()), memoryMib };
    expect(templateSize(wanted, config)).toEqual({ size: { ...wanted, memoryMib: template }, growMib });
  });

  it.each([
    [1, 256],
    [192 * MIB, 256],
    [192 * MIB + 1, 384],
  ])('for limits of %i bytes together has %i MiB', (limit, mib) => {
    expect(memoryFor([limit], config)).toBe(mib);
    expect(memoryFor([undefined, limit, 0], config)).toBe(mib);
  });

  it('is not limited by what is none', () => {
    expect(cpuLimit(undefined)).toBeUndefined();
    expect(cpuLimit({ cpu: { quota: 0, period: 100_000 } })).toBeUndefined();
    expect(cpuLimit({ cpu: { quota: 100_000, period: 0 } })).toBe(1);
    expect(memoryLimit(undefined)).toBeUndefined();
    expect(memoryLimit({ memory: { limit: 2 ** 60 } })).toBeUndefined();
    expect(memoryLimit({ memory: { limit: 2 ** 60 - 256 } })).toBe(2 ** 60 - 256);
    expect(memoryLimit({ memory: { limit: 1 } })).toBe(1);
  });

  it('holds the limits of several containers at once', () => {
    expect(memoryFor([300 * MIB, undefined, 200 * MIB], config)).toBe(640);
    expect(memoryFor([undefined], config)).toBe(256);
    expect(cpuLimit({ cpu: { quota: 50_000 } })).toBe(0.5);
  });
});

describe('annotations with Kata’s names', () => {
  it('say the size themselves', () => {
    expect(size(kata('default_memory', '512')).memoryMib).toBe(512);
    expect(size(kata('default_vcpus', '1.5')).vcpus).toBe(2);
  });

  it('mean nothing unless they are allowed, by name or by the beginning of it', () => {
    const spec = kata('default_memory', '512');
    const name = 'io.katacontainers.config.hypervisor.default_memory';
    expect(size(spec, { annotations: [] }).memoryMib).toBe(256);
    expect(size(spec, { annotations: [`${name}x`, 'io.katacontainers.config.runtime.*'] }).memoryMib).toBe(
      256,
    );
    expect(size(spec, { annotations: [name] }).memoryMib).toBe(512);
    expect(size(kata('default_memory', 'none'), { annotations: [] }).memoryMib).toBe(256);
  });

  it.each([
    ['default_memory', '-1'],
    ['default_memory', '512M'],
    ['default_memory', '1.5'],
    ['default_memory', ''],
    ['default_memory', '9999999999'],
    ['default_vcpus', '0'],
    ['default_vcpus', '1e3'],
  ])('are refused by name: %s = %j', (key, value) => {
    const error = refusal(() => size(kata(key, value)));
    expect(error.code).toBe(ErrorCode.InvalidArgument);
    expect(error.message).toBe(
      `create web: annotation io.katacontainers.config.hypervisor.${key}: ${JSON.stringify(value)} is not a positive number`,
    );
  });

  it('cannot ask for more than a machine may have', () => {
    expect(refusal(() => size(kata('default_memory', '8192'))).code).toBe(ErrorCode.ResourceExhausted);
    expect(size(kata('default_vcpus', '512')).vcpus).toBe(HOST_CPUS);
  });

  it('of other things are passed over', () => {
    expect(size(kata('kernel_params', 'init=/bin/sh'))).toEqual(size(podSpec()));
  });
});
