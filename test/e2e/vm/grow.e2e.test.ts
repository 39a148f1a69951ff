import { basename, join } from 'node:path';
import { mkdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { containerConfig, CriClient, podConfig } from '../lib/cri.ts';
import { eventually } from '../lib/exec.ts';
import { testImage } from '../lib/image.ts';
import { scratch } from '../lib/paths.ts';
import { vm } from './machines.ts';

const MIB = 1 << 20;

describe('an update of a pod behind the vm wall', () => {
  let containerd: PrivateContainerd;
  let cri: CriClient;
  let podSandboxId: string;
  let containerId: string;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ cri: { runtime: vm } });
    cri = new CriClient(containerd.address);
    await eventually('CRI and CNI to be ready', async () => {
      const { status } = await cri.status({});
      return status?.conditions?.every((condition) => condition.status);
    });
    const logDirectory = join(containerd.dir, 'logs');
    mkdirSync(logDirectory);
    const config = podConfig('grows', {
      logDirectory,
      linux: { cgroupParent: `/${basename(scratch())}-pods` },
    });
    ({ podSandboxId } = await cri.runPodSandbox({ config, runtimeHandler: 'test' }));
    ({ containerId } = await cri.createContainer({
      podSandboxId,
      config: containerConfig('main', testImage, ['sleep', '1000'], {}),
      sandboxConfig: config,
    }));
    await cri.startContainer({ containerId });
  });
  afterAll(async () => {
    cri?.close();
    await containerd?.stop();
  });

  const memoryMib = async (): Promise<number> => {
    const { stdout } = await cri.execSync({
      containerId,
      cmd: ['grep', 'MemTotal', '/proc/meminfo'],
      timeout: 120,
    });
    return Number(/\d+/.exec(Buffer.from(stdout ?? []).toString())?.[0]) / 1024;
  };

  it('plugs memory when a limit is above what the machine has', async () => {
    const before = await memoryMib();
    await cri.updateContainerResources({ containerId, linux: { memoryLimitInBytes: 600 * MIB } });
    const after = await memoryMib();
    // 600 and 64 for the guest itself, in blocks of 128.
    expect(after - before).toBeGreaterThan(400);
    expect(after).toBeLessThan(768);
    // What fits already changes nothing.
    await cri.updateContainerResources({ containerId, linux: { memoryLimitInBytes: 300 * MIB } });
    expect(await memoryMib()).toBe(after);
  });

  it('is refused above the largest machine, and changes nothing', async () => {
    const before = await memoryMib();
    await expect(
      cri.updateContainerResources({ containerId, linux: { memoryLimitInBytes: 8192 * MIB } }),
    ).rejects.toThrow(/memory of 8320 MiB: is above the largest machine of 4096 MiB/);
    expect(await memoryMib()).toBe(before);
  });

  // Under TCG, as here; the lab has KVM (test/lab/kvm.lab.test.ts).
  it('is refused when it wants more processors than the guest can take, and changes nothing', async () => {
    const cpus = async (cpuQuota: number): Promise<void> => {
      await cri.updateContainerResources({ containerId, linux: { cpuQuota, cpuPeriod: 100_000 } });
    };
    await cpus(100_000);
    await expect(cpus(200_000)).rejects.toThrow(/2 vCPUs: the machine has 1, and its guest takes no more/);
    await expect(cpus(900_000)).rejects.toThrow(/9 vCPUs: are above the largest machine of 4/);
    const { stdout } = await cri.execSync({ containerId, cmd: ['nproc'], timeout: 120 });
    expect(Buffer.from(stdout ?? []).toString()).toBe('1\n');
  });

  it('leaves nothing behind', async () => {
    await cri.stopPodSandbox({ podSandboxId });
    await cri.removePodSandbox({ podSandboxId });
    expect(await containerd.leaks()).toEqual([]);
  });
});
