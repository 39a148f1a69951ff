/** Launch plans that the guest's agent carries out: the same compiler as on the host, with the guest's facts. */
import { contributeCgroups, locateCgroup } from '../../cgroups/index.ts';
import type { Process, Spec } from '../../oci/types.ts';
import { compileCreate } from '../../plan/compile.ts';
import { compileExec } from '../../plan/exec.ts';
import type { LaunchPlan, SeccompProgram } from '../../plan/inputs.ts';
import type { CreateOptions, ExecOptions, RootfsMount } from '../backend.ts';
import type { GuestProcess } from './pod_agent.ts';
import { guestCgroupName, guestFacts, guestLayout } from './layout.ts';

export interface GuestRootfs {
  /** Directory of the guest over which the root is attached. */
  path: string;
  /** Empty: the directory as it is. */
  mounts: readonly RootfsMount[];
}

export interface GuestCreateInput {
  id: string;
  /** As guestSpec made it. */
  spec: Spec;
  rootfs: GuestRootfs;
  seccomp: SeccompProgram | undefined;
  options: CreateOptions;
}

/** @param warn gets what was asked for and cannot be had in the guest */
export function guestCreatePlan(input: GuestCreateInput, warn: (message: string) => void): LaunchPlan {
  const { id, spec, rootfs, seccomp, options } = input;
  const location = { driver: 'cgroupfs' as const, name: guestCgroupName(id) };
  const cgroup = contributeCgroups(spec.linux?.resources, guestLayout, location, { id });
  cgroup.warnings.forEach(warn);
  return compileCreate(
    {
      id,
      bundle: '/',
      spec,
      rootfs,
      cgroup,
      seccomp,
      host: guestFacts,
      gate: { kind: 'sync' },
      noNewKeyring: options.noNewKeyring,
      noPivot: options.noPivot,
    },
    warn,
  );
}

export interface GuestExecInput {
  id: string;
  execId: string;
  process: Process;
  /** As guestSpec made it for the container. */
  spec: Spec;
  /** Of the container's init, in the guest. */
  pid: number;
  seccomp: SeccompProgram | undefined;
  options: ExecOptions | undefined;
  /** Waits at the gate "start" before execve. */
  gated?: boolean | undefined;
}

export function guestExecPlan(input: GuestExecInput, warn: (message: string) => void): LaunchPlan {
  const { id, execId, process, spec, pid, seccomp, options } = input;
  // Moved before the namespaces are joined: from the container's cgroup namespace, the agent's cgroup is out of sight
  // (nsdelegate, cgroups(7)), and Clone would fail. The wait that comes with it is short in the guest (rcu_expedited).
  const view = locateCgroup({ driver: 'cgroupfs', name: guestCgroupName(id) }, guestLayout);
  return compileExec(
    {
      id,
      execId,
      process,
      target: {
        pid,
        // The pod's own kernel has no other use for a pid so soon, and the agent knows its processes.
        startTime: 0,
        namespaces: (spec.linux?.namespaces ?? []).map(({ type }) => type),
      },
      cgroup: { outer: [{ joinCgroup: { path: view.unified?.path ?? '' } }] },
      linux: spec.linux,
      seccomp,
      host: guestFacts,
      noNewKeyring: options?.noNewKeyring,
      gate: input.gated === true ? { kind: 'sync' } : undefined,
    },
    warn,
  );
}

const PLAN_VERSION = 1;

/** A process of the guest itself: in its root and its namespaces, with all rights there. @param file to execute */
export function guestProcessPlan(wanted: GuestProcess, file: string | undefined): LaunchPlan {
  const { key, args, env, cwd, stdio, size = { width: 0, height: 0 } } = wanted;
  return {
    version: PLAN_VERSION,
    id: key,
    steps: [
      { clone: { namespaces: 0 } },
      ...(stdio.terminal ? [{ terminal: { mountConsole: false, uid: 0, ...size } }] : []),
      { chdir: { path: cwd } },
      { exec: { file: file ?? args[0] ?? '', args: [...args], env: [...env], preserveFds: 0 } },
    ],
  };
}
