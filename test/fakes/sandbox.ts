/** A host for the vm wall's sandboxes: directories of a test, machines of FakeHypervisor, a log that is kept. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { createLogger } from '../../src/base/log.ts';
import type { CgroupLayout } from '../../src/cgroups/index.ts';
import type { Spec } from '../../src/oci/types.ts';
import type { Pod, SandboxDeps } from '../../src/sandbox/vm/sandbox_deps.ts';
import { FakeHypervisor } from './machine.ts';

export const MIB = 2 ** 20;

export class FakeVmHost {
  readonly hypervisor = new FakeHypervisor();
  readonly log: string[] = [];
  readonly pods: Pod[] = [];
  readonly pinned: [tid: number, mask: number[]][] = [];
  /** Of the hypervisor's process. */
  threads = [501, 502];
  /** What the machine is to grow by once it runs. */
  growMib = 0;
  vcpus = 1;
  emulated = false;
  discarded = 0;
  discardFails = false;
  readonly deps: SandboxDeps;

  constructor(dir: string) {
    const unified = { names: [], mountPoint: join(dir, 'cg'), root: '/', ownPath: '/', weightFiles: [] };
    const layout: CgroupLayout = {
      mode: 'v2',
      hierarchies: [],
      unified: { ...unified, controllers: ['cpu', 'memory', 'pids'] },
    };
    this.deps = {
      hypervisor: () => this.hypervisor,
      machineConfig: async (id, _spec, pod) => {
        this.pods.push(pod);
        const machine = {
          id,
          dir: pod.dir,
          image: { kernel: '/kernel', initrd: '/initrd' },
          size: { memoryMib: 256, vcpus: this.vcpus, maxVcpus: 4 },
          type: 'q35' as const,
          accelerator: 'tcg' as const,
          sharedMemory: pod.share,
          ports: 8,
          functions: pod.functions,
        };
        return { machine, growMib: this.growMib };
      },
      memoryFor: (limit) => ({ mib: Math.ceil(limit / MIB) + 64, largest: 1024 }),
      discardTemplate: async () => {
        this.discarded += 1;
        if (this.discardFails) throw new Error('not permitted');
      },
      network: () => ({
        netnsInventory: async () => ({ links: [], addresses: [], routes: [], neighbours: [] }),
        tapBridge: () => Promise.reject(new Error('no interface')),
        tapUnbridge: async () => {},
      }),
      setAffinity: (tid, mask) => void this.pinned.push([tid, [...mask]]),
      mkfifo: (path) => void execFileSync('mkfifo', [path]),
      isThread: (pid, tid) => pid > 0 && this.threads.includes(tid),
      layout: () => layout,
      shareDaemon: '/usr/bin/virtiofsd',
      openFiles: 1024,
      physicalBits: async () => undefined,
      emulated: async () => this.emulated,
      bootDeadlineMs: 5000,
      log: createLogger((line) => void this.log.push(line.trimEnd()), 'debug'),
    };
  }
}

/** A container with all namespaces of its own. */
export function podSpec(more: Partial<Spec> = {}): Spec {
  const types = ['pid', 'network', 'ipc', 'uts', 'mount'] as const;
  return {
    ociVersion: '1.2.0',
    root: { path: 'rootfs' },
    process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } },
    mounts: [],
    ...more,
    linux: { namespaces: types.map((type) => ({ type })), cgroupsPath: '/pod', ...more.linux },
  };
}
