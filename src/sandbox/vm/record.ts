/** What is kept on disk about a virtual machine: protobuf (proto/state.proto), replaced atomically. */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { bulkhead } from '../../gen/bulkhead.js';

const { Sandbox } = bulkhead.state.v1;
export type SandboxRecord = bulkhead.state.v1.ISandbox;
export type SandboxContainer = bulkhead.state.v1.ISandboxContainer;

const SCHEMA = 1;

/** The record, or undefined when there is none. Internal, naming the file, when it is damaged or of a newer version. */
export function loadSandbox(path: string): SandboxRecord | undefined {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw damaged(path, (error as Error).message, error);
  }
  let record: SandboxRecord;
  try {
    record = Sandbox.decode(bytes);
  } catch (error) {
    throw damaged(path, (error as Error).message, error);
  }
  if (record.schema !== SCHEMA) throw damaged(path, `schema ${record.schema ?? 0} is not known`);
  return record;
}

export function saveSandbox(path: string, record: SandboxRecord): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  writeFileSync(`${path}.tmp`, Sandbox.encode({ ...record, schema: SCHEMA }).finish(), { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

function damaged(path: string, reason: string, cause?: unknown): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Internal,
    op: 'load',
    object: path,
    path,
    reason: `state file is damaged: ${reason}`,
    remedy: 'kill the hypervisor of that directory and remove it',
    cause,
  });
}
