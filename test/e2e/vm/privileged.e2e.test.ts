import { readFileSync, mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { containerConfig, CriClient, podConfig } from '../lib/cri.ts';
import { eventually } from '../lib/exec.ts';
import { testImage } from '../lib/image.ts';
import { scratch } from '../lib/paths.ts';
import { vm } from './machines.ts';

/** Kubernetes' `privileged: true`: all rights, in a machine that is the pod's own. */
describe('a privileged pod behind the vm wall', () => {
  let containerd: PrivateContainerd;
  let cri: CriClient;
  let containerId: string;
  let podSandboxId: string;
  beforeAll(async () => {
    const handler = 'privileged_without_host_devices = true';
    containerd = await PrivateContainerd.start({ cri: { runtime: vm, handler } });
    cri = new CriClient(containerd.address);
    await eventually('CRI and CNI to be ready', async () => {
      const { status } = await cri.status({});
      return status?.conditions?.every((condition) => condition.status);
    });
    const logDirectory = join(containerd.dir, 'logs');
    mkdirSync(logDirectory);
    const linux = {
      cgroupParent: `/${basename(scratch())}-pods`,
      securityContext: { privileged: true },
    };
    const config = podConfig('mighty', { logDirectory, linux });
    ({ podSandboxId } = await cri.runPodSandbox({ config, runtimeHandler: 'test' }));
    const more = { linux: { securityContext: { privileged: true } } };
    ({ containerId } = await cri.createContainer({
      podSandboxId,
      config: containerConfig('main', testImage, ['sleep', '1000'], more),
      sandboxConfig: config,
    }));
    await cri.startContainer({ containerId });
  });
  afterAll(async () => {
    cri?.close();
    await containerd?.stop();
  });

  const sh = async (script: string): Promise<string> => {
    const { stdout, stderr } = await cri.execText(containerId, ['sh', '-c', script]);
    return stdout + stderr;
  };

  it('may do in its guest what root may', async () => {
    // containerd gives the capabilities that it has itself.
    const [own = 'none'] = /^CapEff:.*$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
    expect(await sh('grep -E "^(CapEff|Seccomp):" /proc/self/status')).toBe(`${own}\nSeccomp:\t0\n`);
    expect(await sh('mkdir /m && mount -t tmpfs tmpfs /m && echo 77 > /proc/sys/vm/swappiness')).toBe('');
    expect(await sh('cat /proc/sys/vm/swappiness; mount | grep -c "sysfs (rw"')).toBe('77\n1\n');
  });

  it('has changed nothing of the host, and has no device of it', async () => {
    const before = readFileSync('/proc/sys/vm/swappiness', 'utf8');
    await sh('echo 78 > /proc/sys/vm/swappiness');
    expect(readFileSync('/proc/sys/vm/swappiness', 'utf8')).toBe(before);
    expect(await sh('ls /dev/vda /dev/sda /dev/kvm 2>/dev/null')).toBe('');
  });

  it('leaves nothing behind', async () => {
    await cri.removePod(podSandboxId);
    expect(await containerd.leaks()).toEqual([]);
  });
});
