/** The record of a container: protobuf (proto/state.proto) with a schema number, checked when read. */
import { bulkhead } from '../gen/bulkhead.js';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

export type ContainerRecord = bulkhead.state.v1.IContainer;
export type ProcessRecord = bulkhead.state.v1.IProcess;

/** What this version writes, and the newest it reads. */
export const currentSchema = 1;

const { Container } = bulkhead.state.v1;

/** The bytes of a record, with the present schema number. */
export function encodeRecord(record: ContainerRecord): Uint8Array {
  return Container.encode({ ...record, schema: currentSchema }).finish();
}

/**
 * The record in `bytes`, read from `path`, which must be that of container `id` in `namespace`.
 * A file of a newer version is FailedPrecondition, a damaged one Internal; both name the file.
 */
export function decodeRecord(
  bytes: Uint8Array,
  path: string,
  namespace: string,
  id: string,
): ContainerRecord {
  const record = decode(bytes, path, id);
  const schema = record.schema ?? 0;
  if (schema > currentSchema) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'load',
      id,
      object: path,
      path,
      reason: `written by a newer version (schema ${schema}, this one reads up to ${currentSchema})`,
      remedy: 'use that version to delete the container',
    });
  }
  if (schema === 0) throw damaged(path, id, 'no schema number');
  if (record.id !== id || record.namespace !== namespace) {
    throw damaged(path, id, `it is the record of ${JSON.stringify(`${record.namespace}/${record.id}`)}`);
  }
  return record;
}

function decode(bytes: Uint8Array, path: string, id: string): ContainerRecord {
  try {
    return Container.decode(bytes);
  } catch (error) {
    throw damaged(path, id, error instanceof Error ? error.message : String(error), error);
  }
}

function damaged(path: string, id: string, why: string, cause?: unknown): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Internal,
    op: 'load',
    id,
    object: path,
    path,
    reason: `state file is damaged: ${why}`,
    remedy: 'kill what is left of the container and remove the file',
    cause,
  });
}
