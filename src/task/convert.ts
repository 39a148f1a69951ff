/** Small conversions between the runtime's values and containerd's messages. */
import type { google } from '../gen/containerd.js';
import { containerd } from '../gen/containerd.js';
import { Status } from '../runtime/lifecycle.ts';

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
