import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd, type Version } from './lib/containerd.ts';
import { ContainerState, CriClient, PodSandboxState, containerConfig, podConfig } from './lib/cri.ts';
import { eventually, run } from './lib/exec.ts';
import { testImage } from './lib/image.ts';
import { markedProcesses } from './lib/leaks.ts';
import { isBulkhead, scratch } from './lib/paths.ts';

/** runtime.v1.NamespaceMode.CONTAINER. */
const NAMESPACE_MODE_CONTAINER = 1;

/** Kubernetes' way in: pods through containerd's CRI plugin with Debian's CNI plugins. */
describe.each(['1.6', '1.7', '2'] as Version[])('pods through CRI of containerd %s', (version) => {
  let containerd: PrivateContainerd;
  let cri: CriClient;
  let pod: string;
  let first: string;
  let second: string;
  let logDirectory: string;
  /** Pods' cgroups are named after the run, so that tools/private.sh finds them. */
  const cgroupParent = `/${basename(scratch())}-pods`;

  /** Each container its own processes (the default of the protocol is one PID namespace for the pod). */
  const ownPid = { namespaceOptions: { pid: NAMESPACE_MODE_CONTAINER } };

  const config = (name = 'web') =>
    podConfig(name, { logDirectory, linux: { cgroupParent, securityContext: ownPid } });

  /** A container's name stays taken when a test is tried again. */
  let tries = 0;
  const fresh = (name: string): string => `${name}-${++tries}`;

  const add = async (
    name: string,
    command: string[],
    more: object = { linux: { securityContext: ownPid } },
  ): Promise<string> => {
    const { containerId } = await cri.createContainer({
      podSandboxId: pod,
      config: containerConfig(name, testImage, command, more),
      sandboxConfig: config(),
    });
    await cri.startContainer({ containerId });
    return containerId;
  };

  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ version, cri: {} });
    logDirectory = join(containerd.dir, 'logs');
    mkdirSync(logDirectory);
    cri = new CriClient(containerd.address);
    await eventually('CRI and CNI to be ready', async () => {
      const { status } = await cri.status({});
      return status?.conditions?.every((condition) => condition.status);
    });
  });
  afterAll(async () => {
    cri?.close();
    await containerd?.stop();
  });

  it('runs a pod with two containers', async () => {
    pod = (await cri.runPodSandbox({ config: config(), runtimeHandler: 'test' })).podSandboxId;
    first = await add('first', [
      'sh',
      '-c',
      'echo log line; echo err line >&2; mkfifo /dev/shm/x; exec sleep 1000',
    ]);
    second = await add('second', ['sleep', '1000']);
    const { status } = await cri.podSandboxStatus({ podSandboxId: pod });
    expect(status?.state).toBe(PodSandboxState.SANDBOX_READY);
    for (const containerId of [first, second]) {
      const answer = await cri.containerStatus({ containerId });
      expect(answer.status?.state).toBe(ContainerState.CONTAINER_RUNNING);
    }
  });

  it('gives the pod an address on the bridge, and both containers the same network', async () => {
    const { status } = await cri.podSandboxStatus({ podSandboxId: pod });
    expect(status?.network?.ip).toMatch(/^10\.231\.\d+\.\d+$/);
    for (const container of [first, second]) {
      const { stdout } = await cri.execText(container, ['ip', '-4', '-o', 'addr', 'show', 'eth0']);
      expect(stdout).toContain(`${status?.network?.ip}/16`);
    }
  });

  it('exchanges TCP with the host, each way, by the network that CNI has made', async () => {
    const inHost = ['--target', String(containerd.pid), '--net', '--', 'busybox'];
    const page = (directory: string): string =>
      `mkdir -p ${directory}; head -c 300000 /dev/zero | tr '\\0' x > ${directory}/page`;
    const serve = `${page('/tmp/www')}; exec httpd -f -p 8080 -h /tmp/www`;
    const web = await add(fresh('serves'), ['sh', '-c', serve]);
    const { status } = await cri.podSandboxStatus({ podSandboxId: pod });
    const fetch = ['wget', '-q', '-O', '-', `http://${status?.network?.ip}:8080/page`];
    await eventually('the pod to serve', async () => {
      const { stdout } = await run('nsenter', [...inHost, ...fetch]);
      return stdout.length === 300_000;
    });
    const directory = join(containerd.dir, 'www');
    await run('sh', ['-c', page(directory)]);
    const server = spawn('nsenter', [...inHost, 'httpd', '-f', '-p', '10.231.0.1:8081', '-h', directory]);
    try {
      const count = ['sh', '-c', 'wget -q -O - http://10.231.0.1:8081/page | wc -c'];
      await eventually('the host to serve', async () => {
        const { stdout } = await cri.execText(second, count);
        return stdout.trim() === '300000';
      });
    } finally {
      server.kill('SIGKILL');
    }
    await cri.stopContainer({ containerId: web, timeout: 0 });
    await cri.removeContainer({ containerId: web });
  });

  it('shares IPC, UTS and /dev/shm but neither mounts nor processes', async () => {
    const links = async (container: string): Promise<Record<string, string>> => {
      const script = 'for n in ipc uts net mnt pid; do echo $n $(readlink /proc/self/ns/$n); done';
      const { stdout } = await cri.execText(container, ['sh', '-c', script]);
      return Object.fromEntries(
        stdout
          .trim()
          .split('\n')
          .map((line) => line.split(' ') as [string, string]),
      );
    };
    const [a, b] = [await links(first), await links(second)];
    expect({ ipc: a.ipc, uts: a.uts, net: a.net }).toEqual({ ipc: b.ipc, uts: b.uts, net: b.net });
    expect(a.mnt).not.toBe(b.mnt);
    expect(a.pid).not.toBe(b.pid);
    expect((await cri.execText(second, ['ls', '/dev/shm'])).stdout).toBe('x\n');
    expect((await cri.execText(second, ['hostname'])).stdout).toBe('web\n');
  });

  it('answers ExecSync with output and exit code', async () => {
    const result = await cri.execText(first, ['sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(result).toEqual({ stdout: 'out\n', stderr: 'err\n', exitCode: 3 });
  });

  it('ends an ExecSync at its time limit', async () => {
    await expect(cri.execText(first, ['sleep', '1000'], 1)).rejects.toThrow(/timeout|deadline/i);
  });

  it('writes logs as the kubelet reads them', async () => {
    const text = await eventually('both log lines', () => {
      const log = readFileSync(join(logDirectory, 'first.log'), 'utf8');
      return log.split('\n').length >= 3 && log;
    });
    expect(text).toMatch(/^\S+ stdout F log line$/m);
    expect(text).toMatch(/^\S+ stderr F err line$/m);
  });

  it('answers stats', async () => {
    const used = await eventually('stats of a running container', async () => {
      const { stats } = await cri.containerStats({ containerId: first });
      return Number(stats?.memory?.workingSetBytes?.value ?? 0) > 0 && stats;
    });
    expect(Number(used?.cpu?.usageCoreNanoSeconds?.value)).toBeGreaterThan(0);
  });

  it('updates resources of a running container', async () => {
    const linux = { memoryLimitInBytes: 96 << 20, cpuShares: 512 };
    await cri.updateContainerResources({ containerId: first, linux });
    const { status } = await cri.containerStatus({ containerId: first });
    expect(status?.state).toBe(ContainerState.CONTAINER_RUNNING);
  });

  it('reports the exit code of a container that ends', async () => {
    const containerId = await add('brief', ['sh', '-c', 'exit 19']);
    const { status } = await eventually('brief to end', async () => {
      const answer = await cri.containerStatus({ containerId });
      return answer.status?.state === ContainerState.CONTAINER_EXITED && answer;
    });
    expect(status?.exitCode).toBe(19);
    await cri.removeContainer({ containerId });
  });

  it('reports OOMKilled', async () => {
    const containerId = await add('greedy', ['sh', '-c', 'sleep 0.3; exec tail /dev/zero'], {
      linux: { resources: { memoryLimitInBytes: 16 << 20 } },
    });
    const { status } = await eventually('greedy to be killed', async () => {
      const answer = await cri.containerStatus({ containerId });
      return answer.status?.state === ContainerState.CONTAINER_EXITED && answer;
    });
    expect(status).toMatchObject({ exitCode: 137, reason: 'OOMKilled' });
    await cri.removeContainer({ containerId });
  });

  it('runs with a read-only root, another user, dropped capabilities and a seccomp profile', async () => {
    const containerId = await add('confined', ['sleep', '1000'], {
      linux: {
        securityContext: {
          readonlyRootfs: true,
          runAsUser: { value: 1000 },
          supplementalGroups: [2000],
          noNewPrivs: true,
          capabilities: { dropCapabilities: ['ALL'] },
          seccomp: { profileType: 0 },
        },
      },
    });
    const script = 'id -u; id -G; touch /x 2>&1; grep -E "^(CapEff|NoNewPrivs|Seccomp):" /proc/self/status';
    const { stdout } = await cri.execText(containerId, ['sh', '-c', script]);
    expect(stdout).toMatch(/^1000\n.*2000/);
    expect(stdout).toContain('Read-only file system');
    expect(stdout).toMatch(/CapEff:\s+0000000000000000/);
    expect(stdout).toMatch(/NoNewPrivs:\s+1/);
    expect(stdout).toMatch(/Seccomp:\s+2/);
    await cri.stopContainer({ containerId, timeout: 0 });
    await cri.removeContainer({ containerId });
  });

  if (isBulkhead) {
    it('needs one monitor for the whole pod', () => {
      const monitors = markedProcesses(containerd).filter(({ command }) => command.includes('shim-bulkhead'));
      expect(monitors).toHaveLength(1);
    });
  }

  it('survives a restart of containerd', async () => {
    await containerd.kill('SIGKILL');
    await containerd.launch();
    await eventually('the pod to be known again', async () => {
      // CRI refuses every call until it has taken up its pods.
      const answer = await cri.podSandboxStatus({ podSandboxId: pod }).catch(() => undefined);
      return answer?.status?.state === PodSandboxState.SANDBOX_READY;
    });
    expect((await cri.execText(second, ['echo', 'here'])).stdout).toBe('here\n');
  });

  it('stops a container by SIGTERM, and by SIGKILL when it does not listen', async () => {
    const polite = await add(fresh('polite'), [
      'sh',
      '-c',
      "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done",
    ]);
    const ready = ['test', '-e', '/ready'];
    await eventually('the trap', async () => (await cri.execText(polite, ready)).exitCode === 0);
    await cri.stopContainer({ containerId: polite, timeout: 60 });
    expect((await cri.containerStatus({ containerId: polite })).status?.exitCode).toBe(5);
    const deaf = await add(fresh('deaf'), ['sh', '-c', "trap '' TERM; while :; do sleep 0.05; done"]);
    await cri.execText(deaf, ['true']);
    await cri.stopContainer({ containerId: deaf, timeout: 1 });
    expect((await cri.containerStatus({ containerId: deaf })).status?.exitCode).toBe(137);
  });

  it('runs five pods at once', async () => {
    const pods = await Promise.all(
      Array.from({ length: 5 }, (_, n) =>
        cri.runPodSandbox({
          config: config(`many-${n}`),
          runtimeHandler: 'test',
        }),
      ),
    );
    const addresses = await Promise.all(
      pods.map(
        async ({ podSandboxId }) => (await cri.podSandboxStatus({ podSandboxId })).status?.network?.ip,
      ),
    );
    expect(new Set(addresses).size).toBe(5);
    await Promise.all(pods.map(({ podSandboxId }) => cri.removePod(podSandboxId)));
  });

  it('removes the pod and leaves nothing behind', async () => {
    await cri.removePod(pod);
    expect((await cri.listPodSandbox({})).items).toEqual([]);
    expect(await containerd.leaks()).toEqual([]);
  });
});
