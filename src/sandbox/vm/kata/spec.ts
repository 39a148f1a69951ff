/**
 * config.json as Kata's agent takes it. Pure. The protocol has no field for a good part of the runtime-spec: what a
 * container would run wrongly without is refused here, by name; what it would only run differently with is told.
 */
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import type { bulkhead } from '../../../gen/kata.js';
import { isBind } from '../../../oci/validate/checks_mounts.ts';
import type { LinuxResources, Mount, Process, Spec } from '../../../oci/types.ts';
import { guestCgroupName } from '../layout.ts';

export type KataSpec = bulkhead.kata.v1.ISpec;
export type KataProcess = bulkhead.kata.v1.IProcess;
export type KataResources = bulkhead.kata.v1.IResources;

/** What the kernel gives for an action "errno" without a number, and what engines write out (Docker's profile). */
const EPERM = 1;

export interface KataContainer {
  spec: KataSpec;
  /** It joins the pid namespace of the pod's first container. */
  sharesPids: boolean;
}

/**
 * @param spec as guestSpec made it
 * @param root directory of the guest
 * @param warn gets what is left out
 * @throws RuntimeError Unimplemented for what cannot be left out
 */
export function kataSpec(
  id: string,
  spec: Spec,
  root: string,
  warn: (message: string) => void,
): KataContainer {
  const { linux = {}, process, hooks } = spec;
  checkSpec(id, spec, warn);
  const namespaces = linux.namespaces ?? [];
  return {
    spec: {
      ociVersion: spec.ociVersion,
      ...(process === undefined ? {} : { process: kataProcess('create', id, process, warn) }),
      root: { path: root, readonly: spec.root?.readonly ?? false },
      hostname: spec.hostname ?? '',
      mounts: (spec.mounts ?? []).map(kataMount),
      hooks: { startContainer: hooks?.startContainer ?? [] },
      annotations: spec.annotations ?? {},
      linux: {
        uidMappings: linux.uidMappings ?? [],
        gidMappings: linux.gidMappings ?? [],
        sysctl: linux.sysctl ?? {},
        resources: kataResources('create', id, linux.resources ?? {}, warn),
        cgroupsPath: guestCgroupName(id),
        // The agent makes the pod's ipc and uts namespace, and adds the pid namespace itself; the network is the guest's.
        namespaces: namespaces
          .filter(({ type }) => !['pid', 'network', 'time'].includes(type))
          .map(({ type }) => ({ type, path: '' })),
        devices: linux.devices ?? [],
        ...(linux.seccomp === undefined ? {} : { seccomp: linux.seccomp }),
        rootfsPropagation: linux.rootfsPropagation ?? '',
        maskedPaths: linux.maskedPaths ?? [],
        readonlyPaths: linux.readonlyPaths ?? [],
      },
    },
    sharesPids: namespaces.some(({ type, path = '' }) => type === 'pid' && path !== ''),
  };
}

/** A container's first process, or an exec. */
export function kataProcess(
  op: string,
  id: string,
  given: Process,
  warn: (message: string) => void,
): KataProcess {
  const { scheduler, ioPriority, execCPUAffinity, user } = given;
  if (scheduler !== undefined) refuse(op, id, 'process.scheduler');
  if (user.umask !== undefined) refuse(op, id, 'process.user.umask');
  if (ioPriority !== undefined) warn(ignored('process.ioPriority'));
  if (execCPUAffinity !== undefined) warn(ignored('process.execCPUAffinity'));
  return {
    terminal: given.terminal ?? false,
    ...(given.consoleSize === undefined ? {} : { consoleSize: given.consoleSize }),
    user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids ?? [] },
    args: given.args,
    env: given.env ?? [],
    cwd: given.cwd,
    ...(given.capabilities === undefined ? {} : { capabilities: given.capabilities }),
    rlimits: given.rlimits ?? [],
    noNewPrivileges: given.noNewPrivileges ?? false,
    oomScoreAdj: given.oomScoreAdj ?? 0,
  };
}

/** Limits, at create or by an update. */
export function kataResources(
  op: string,
  id: string,
  { devices, memory, cpu, pids, unified = {}, rdma = {} }: LinuxResources,
  warn: (message: string) => void,
): KataResources {
  const [file] = Object.keys(unified);
  if (file !== undefined) refuse(op, id, `linux.resources.unified["${file}"]`);
  if (Object.keys(rdma).length > 0) refuse(op, id, 'linux.resources.rdma');
  if (cpu?.burst !== undefined) warn(ignored('linux.resources.cpu.burst'));
  if (cpu?.idle !== undefined) warn(ignored('linux.resources.cpu.idle'));
  // Processors and memory nodes are numbered otherwise in the guest.
  const { cpus: _cpus, mems: _mems, ...time } = cpu ?? {};
  return {
    devices: devices ?? [],
    ...(memory === undefined ? {} : { memory }),
    ...(cpu === undefined ? {} : { cpu: time }),
    ...(pids === undefined ? {} : { pids }),
  };
}

function checkSpec(
  id: string,
  { domainname, linux = {}, mounts = [] }: Spec,
  warn: (message: string) => void,
): void {
  const mapped = mounts.findIndex(
    ({ uidMappings, gidMappings }) => (uidMappings ?? gidMappings) !== undefined,
  );
  if (mapped >= 0) refuse('create', id, `mounts[${mapped}].uidMappings`);
  if (linux.personality !== undefined) refuse('create', id, 'linux.personality');
  if (Object.keys(linux.timeOffsets ?? {}).length > 0) refuse('create', id, 'linux.timeOffsets');
  const { defaultErrnoRet, defaultAction } = linux.seccomp ?? {};
  if (defaultAction === 'SCMP_ACT_ERRNO' && (defaultErrnoRet ?? EPERM) !== EPERM)
    refuse('create', id, 'linux.seccomp.defaultErrnoRet');
  if ((domainname ?? '') !== '') warn(ignored('domainname'));
}

/** Kata's agent tells a bind mount by its type alone. */
function kataMount(mount: Mount): bulkhead.kata.v1.IMount {
  const { destination, source = '', options = [] } = mount;
  return { destination, source, type: isBind(mount) ? 'bind' : (mount.type ?? ''), options };
}

function ignored(field: string): string {
  return `config.json: ${field}: Kata's agent protocol cannot carry it; left out`;
}

function refuse(op: string, id: string, field: string): never {
  throw new RuntimeError({
    code: ErrorCode.Unimplemented,
    op,
    id,
    object: `config.json: ${field}`,
    reason: "Kata's agent protocol cannot carry it",
    remedy: 'use our own agent (vm.agent = "bulkhead"), or the namespace wall',
  });
}
