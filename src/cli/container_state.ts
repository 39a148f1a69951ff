/** What `state` and `list` say of a container, in runc's words and order. */
import { Status, statusName } from '../runtime/lifecycle.ts';
import type { ContainerRecord } from '../state/index.ts';
import { currentStatus } from './status.ts';

export interface ContainerState {
  ociVersion: string;
  id: string;
  /** 0 when stopped. */
  pid: number;
  status: string;
  bundle: string;
  rootfs: string;
  /** RFC 3339. */
  created: string;
  annotations?: Record<string, string>;
  owner: string;
}

export function containerState(record: ContainerRecord): ContainerState {
  const status = currentStatus(record);
  const annotations = record.annotations ?? {};
  return {
    ociVersion: record.ociVersion ?? '',
    id: record.id ?? '',
    pid: status === Status.STATUS_STOPPED ? 0 : (record.init?.pid ?? 0),
    status: statusName(status),
    bundle: record.bundle ?? '',
    rootfs: record.rootfs ?? '',
    created: rfc3339(record.createdAtNs ?? 0),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    owner: record.owner ?? '',
  };
}

function rfc3339(nanoseconds: number): string {
  return new Date(nanoseconds / 1e6).toISOString();
}
