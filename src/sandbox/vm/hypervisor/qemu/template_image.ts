/**
 * A template on disk: a directory with the guest's memory (sparse), the devices' state and a manifest that tells whether
 * both are whole. Made beside its place and renamed into it, so that a half-made one is never found.
 */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { TemplateImage } from '../hypervisor.ts';

/** Of what is written here; part of the key. */
export const TEMPLATE_FORMAT = 2;
/** Some 300 KiB are usual; QEMU's own limit of what we would read. */
const MAX_STATE = 64 << 20;
const MAX_MANIFEST = 64 << 10;

export interface TemplateManifest {
  format: number;
  memorySize: number;
  /** copySparse's checksum, decimal. */
  memorySum: string;
  stateSize: number;
  stateSha256: string;
}

export const MEMORY_FILE = 'memory';
export const STATE_FILE = 'state';
export const MANIFEST_FILE = 'manifest.json';

/** FailedPrecondition: there is a template, and it cannot be used; it has to be built anew. */
export class TemplateError extends RuntimeError {
  constructor(path: string, reason: string, cause?: unknown) {
    super({
      code: ErrorCode.FailedPrecondition,
      op: 'vm',
      object: `template ${path}`,
      reason,
      remedy: 'remove it, and it is built anew',
      path,
      cause,
    });
  }
}

export function stateDigest(state: Uint8Array): string {
  return createHash('sha256').update(state).digest('hex');
}

/**
 * The template in a directory; undefined when there is none. Checks everything but the memory's content, which is
 * compared with `memorySum` when it is first loaded. Throws TemplateError.
 */
export function readTemplate(dir: string): TemplateImage | undefined {
  const manifest = readManifest(dir);
  if (manifest === undefined) return undefined;
  const memory = join(dir, MEMORY_FILE);
  const state = join(dir, STATE_FILE);
  const size = sizeOf(dir, memory);
  if (size !== manifest.memorySize)
    throw new TemplateError(dir, `its memory has ${size} bytes instead of ${manifest.memorySize}`);
  const stateSize = sizeOf(dir, state);
  if (stateSize !== manifest.stateSize || stateSize > MAX_STATE)
    throw new TemplateError(dir, `its state has ${stateSize} bytes instead of ${manifest.stateSize}`);
  if (stateDigest(readFileSync(state)) !== manifest.stateSha256)
    throw new TemplateError(dir, 'its state is damaged');
  return { memory, state, memorySum: BigInt(manifest.memorySum) };
}

function readManifest(dir: string): TemplateManifest | undefined {
  const path = join(dir, MANIFEST_FILE);
  let text: string;
  try {
    if (statSync(path).size > MAX_MANIFEST) throw new TemplateError(dir, 'its manifest is too large');
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error instanceof TemplateError ? error : new TemplateError(dir, (error as Error).message, error);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new TemplateError(dir, 'its manifest is not JSON', error);
  }
  if (!isManifest(parsed)) throw new TemplateError(dir, 'its manifest is not complete');
  return parsed;
}

function isManifest(value: unknown): value is TemplateManifest {
  if (typeof value !== 'object' || value === null) return false;
  const { format, memorySize, memorySum, stateSize, stateSha256 } = value as Partial<TemplateManifest>;
  return (
    format === TEMPLATE_FORMAT &&
    Number.isSafeInteger(memorySize) &&
    Number.isSafeInteger(stateSize) &&
    typeof memorySum === 'string' &&
    /^\d{1,20}$/.test(memorySum) &&
    typeof stateSha256 === 'string'
  );
}

function sizeOf(dir: string, path: string): number {
  try {
    return statSync(path).size;
  } catch (error) {
    throw new TemplateError(
      dir,
      (error as NodeJS.ErrnoException).code === 'ENOENT' ? `${path} is missing` : (error as Error).message,
      error,
    );
  }
}
