/** Small conversions between the runtime's values and containerd's messages. */
import type { google } from '../gen/containerd.js';
import { containerd } from '../gen/containerd.js';
import type { Container, ContainerProcess, ExitStatus } from '../runtime/container.ts';
import { Status } from '../runtime/lifecycle.ts';
import type { RootfsMount } from '../runtime/types.ts';

type ITimestamp = google.protobuf.ITimestamp;

/** A timestamp of nanoseconds since the epoch; undefined (not set) for 0. */
export function timestamp(ns: number): ITimestamp | undefined {
  if (ns === 0) return undefined;
  const seconds = Math.floor(ns / 1e9);
  return { seconds, nanos: Math.round(ns - seconds * 1e9) };
}

const TaskStatus = containerd.v1.types.Status;

const taskStatuses: Record<Status, containerd.v1.types.Status> = {
  [Status.STATUS_UNKNOWN]: TaskStatus.UNKNOWN,
  [Status.STATUS_CREATING]: TaskStatus.CREATED,
  [Status.STATUS_CREATED]: TaskStatus.CREATED,
  [Status.STATUS_RUNNING]: TaskStatus.RUNNING,
  [Status.STATUS_PAUSED]: TaskStatus.PAUSED,
  [Status.STATUS_STOPPED]: TaskStatus.STOPPED,
};

/** The runtime's status as containerd numbers it. */
export function taskStatus(status: Status | null | undefined): containerd.v1.types.Status {
  return taskStatuses[status ?? Status.STATUS_UNKNOWN];
}

/** What State says of a process. */
export function stateResponse(
  container: Container,
  process: ContainerProcess,
): containerd.task.v3.IStateResponse {
  const { status, terminal, stdin, stdout, stderr } = process.record;
  const exit = process.exitStatus;
  return {
    id: container.id,
    execId: process.execId,
    bundle: container.record.bundle,
    pid: process.pid,
    status: taskStatus(status),
    terminal,
    stdin,
    stdout,
    stderr,
    exitStatus: exit.exitCode,
    exitedAt: timestamp(exit.exitedAtNs),
  };
}

/** What Connect says: the monitor's pid, and the container's, 0 when there is none. */
export function connectResponse(shimPid: number, taskPid: number): containerd.task.v3.IConnectResponse {
  return { shimPid, taskPid, version: '' };
}

export function rootfsMount(mount: containerd.types.IMount): RootfsMount {
  return {
    type: mount.type ?? '',
    source: mount.source ?? '',
    ...(mount.target ? { target: mount.target } : {}),
    options: mount.options ?? [],
  };
}

export function deleteResponse(exit: ExitStatus): containerd.task.v3.IDeleteResponse {
  return { pid: exit.pid, exitStatus: exit.exitCode, exitedAt: timestamp(exit.exitedAtNs) };
}

export function processDetails(execId: string): google.protobuf.IAny {
  const value = containerd.runc.v1.ProcessDetails.encode({ execId }).finish();
  return { typeUrl: 'containerd.runc.v1.ProcessDetails', value };
}

export function text(bytes: Uint8Array | null | undefined): string {
  return Buffer.from(bytes ?? []).toString('utf8');
}
