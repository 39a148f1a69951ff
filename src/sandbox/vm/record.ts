/** What is kept on disk about a virtual machine: protobuf (proto/state.proto), replaced atomically. */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import type { GuestFunction } from './functions.ts';
import type { MachineConfig } from './hypervisor/hypervisor.ts';

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

/** A machine's configuration on disk, with what the guest has made of its functions. */
export interface RecordedMachine extends MachineConfig {
  found?: GuestFunction[];
}

/** For `record.machine`: what a driver needs to take a machine up again, which no template is part of. */
export function encodeMachine(config: MachineConfig, found?: GuestFunction[]): Uint8Array {
  const machine: RecordedMachine = { ...config, template: undefined, ...(found && { found }) };
  return encodeJson(machine);
}

/** undefined: no machine was made yet. */
export function decodeMachine(record: SandboxRecord): RecordedMachine | undefined {
  return (record.machine?.length ?? 0) === 0 ? undefined : decodeJson<RecordedMachine>(record.machine);
}

export function encodeJson(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

export function decodeJson<T>(bytes: Uint8Array | null | undefined): T {
  return JSON.parse(Buffer.from(bytes ?? []).toString()) as T;
}
