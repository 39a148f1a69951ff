/** The virtual machines of a containerd, as the host sees them. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { containerd as api } from '../../../src/gen/containerd.js';
import type { LinuxResources } from '../../../src/oci/types.ts';
import { connectTtrpc } from '../../../src/rpc/index.ts';
import type { PrivateContainerd } from '../lib/containerd.ts';
import { markedProcesses } from '../lib/leaks.ts';

export const vm = 'io.containerd.bulkhead-vm.v2';

const pidsOf = (containerd: PrivateContainerd, word: RegExp): number[] =>
  markedProcesses(containerd)
    .filter(({ command }) => word.test(command))
    .map(({ pid }) => pid);

export const hypervisors = (containerd: PrivateContainerd): number[] => pidsOf(containerd, /^qemu -name/);
/** The daemon and the process that it forks into its sandbox. */
export const shareDaemons = (containerd: PrivateContainerd): number[] => pidsOf(containerd, /virtiofsd --fd/);
export const monitors = (containerd: PrivateContainerd): number[] =>
  pidsOf(containerd, /shim-bulkhead-vm-v2 /);
export const engines = (containerd: PrivateContainerd): number[] =>
  markedProcesses(containerd)
    .filter(({ engine }) => engine)
    .map(({ pid }) => pid);

/** Directories of machines that are, or should not be any more. */
export const machineDirectories = (containerd: PrivateContainerd): string[] => {
  const top = join(containerd.bulkheadRoot, 'vm');
  return existsSync(top) ? readdirSync(top) : [];
};

/** MiB of a process that no other process shares. */
export const privateMib = (pid: number): number => {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = [...rollup.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+)/gm)].map(([, number]) => Number(number));
  return kib.reduce((sum, number) => sum + number, 0) / 1024;
};

/** Update of a running container, which ctr has no words for: asked of the shim as containerd does it. */
export async function updateTask(
  { dir, namespace }: PrivateContainerd,
  id: string,
  resources: LinuxResources,
): Promise<void> {
  const bundle = join(dir, 'state/io.containerd.runtime.v2.task', namespace, id);
  const client = await connectTtrpc(readFileSync(join(bundle, 'address'), 'utf8').replace('unix://', ''));
  const typeUrl = 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources';
  const value = Buffer.from(JSON.stringify(resources));
  const request = api.task.v3.UpdateTaskRequest.encode({ id, resources: { typeUrl, value } }).finish();
  try {
    await client.call('containerd.task.v2.Task', 'Update', request);
  } finally {
    client.close();
  }
}
