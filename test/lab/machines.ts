/** Virtual machines on the KVM of an emulated processor. */
import type { ContainerOptions, PrivateContainerd } from '../e2e/lib/containerd.ts';
import type { RunResult } from '../e2e/lib/exec.ts';

/** A machine in an emulated machine on a busy host boots when it does: 25 s are usual. */
export const PATIENT = 'boot_timeout_seconds = 180\n';
/** Of those tests whose matter it is not whether KVM is found to work. */
export const ON_KVM = `accelerator = "kvm"\n${PATIENT}`;

const NEVER_BOOTED = /its agent did not answer within|agent: no answer within/;

/**
 * `ctr run` of a pod's first container, once more when its guest has not come up in time. The processor's own
 * virtualization is emulated here, inside an emulated machine, and one boot in some hundreds stands still; what these tests
 * are about begins after it.
 */
export async function runInMachine(
  containerd: PrivateContainerd,
  id: string,
  command: readonly string[],
  options: ContainerOptions = {},
): Promise<RunResult> {
  const first = await containerd.run(id, command, options);
  if (first.code === 0 || !NEVER_BOOTED.test(first.stderr)) return first;
  console.warn(`${id}: once more: ${first.stderr}`);
  await containerd.ctr(['container', 'rm', id]);
  return containerd.run(id, command, options);
}
