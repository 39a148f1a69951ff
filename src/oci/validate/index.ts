/**
 * config.json as text → a specification that the plan compiler can rely on, or one sentence about the first thing
 * that is wrong with it. Three passes: bounds on the text, shapes of all values, checks between values.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { LinuxResources, ParsedSpec, Process, Spec } from '../types.ts';
import { checks } from './checks.ts';
import { checkProcess } from './checks_process.ts';
import { ShapeError, type Shape } from './shape.ts';
import { processShape, resourcesShape, specShape } from './shapes.ts';

/** Largest config.json that is read: containerd's own messages end at 4 MiB. */
export const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** Deepest nesting; the specification's own is 7. Anything deeper only serves to exhaust a stack later. */
const MAX_DEPTH = 64;
const tooDeep = `is nested deeper than ${MAX_DEPTH} levels`;
/** Characters; every real config.json is smaller. */
const SMALL_CONFIG = 128 * 1024;

interface Source {
  /** Verb for the message: "create", "exec", "update". */
  op: string;
  id: string;
  /** What is being read: "config.json", "process.json". */
  file: string;
}

/**
 * Reads config.json. Unknown fields stay in the result and are not looked at. Fields that are null are absent.
 * @throws RuntimeError InvalidArgument, `create web-1: config.json: process.args: must name a program`
 */
export function parseSpec(text: string, id: string, op = 'create'): ParsedSpec {
  const source: Source = { op, id, file: 'config.json' };
  const value = parseJson(text, source);
  checkShape(specShape, value, source);
  const spec = value as Spec;
  spec.linux ??= {};
  const parsed = spec as ParsedSpec;
  completeProcess(parsed.process);
  for (const check of checks) check(parsed, (field, reason, remedy) => refuse(source, field, reason, remedy));
  return parsed;
}

/** Reads the `process` object of an exec, as JSON text. */
export function parseProcess(text: string, id: string, op = 'exec'): Process {
  const source: Source = { op, id, file: 'process' };
  const value = parseJson(text, source);
  checkShape(processShape, value, source);
  const process = value as Process;
  completeProcess(process);
  checkProcess(process, '', (field, reason, remedy) => refuse(source, field, reason, remedy));
  return process;
}

/** Reads the `linux.resources` object of an update, as JSON text. */
export function parseResources(text: string, id: string, op = 'update'): LinuxResources {
  const source: Source = { op, id, file: 'resources' };
  const value = parseJson(text, source);
  checkShape(resourcesShape, value, source);
  return value as LinuxResources;
}

/** Fields that Go's zero values stand for. */
function completeProcess(process: Process): void {
  process.user ??= { uid: 0, gid: 0 };
  process.user.uid ??= 0;
  process.user.gid ??= 0;
  process.args ??= [];
  process.cwd ??= '';
  if (process.ioPriority !== undefined) process.ioPriority.priority ??= 0;
}

function parseJson(text: string, source: Source): unknown {
  if (text.length > MAX_CONFIG_BYTES) {
    refuse(source, '', `is ${text.length} characters long, at most ${MAX_CONFIG_BYTES} are read`);
  }
  // Reading a text character by character costs more than reading the values. But a large one could exhaust the
  // memory with its brackets alone, and is looked at first.
  const large = text.length > SMALL_CONFIG;
  if (large && textDepth(text) > MAX_DEPTH) refuse(source, '', tooDeep);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return refuse(source, '', `is not JSON: ${jsonReason(error)}`);
  }
  if (!large && valueDepth(value, 0) > MAX_DEPTH) refuse(source, '', tooDeep);
  return value;
}

/** The parser's words without the excerpt of the input that newer engines add, on one line. */
function jsonReason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const position = /at position (\d+)/.exec(message);
  return position === null ? 'unexpected end or token' : `unexpected token at position ${position[1]}`;
}

/** Nesting of lists and objects. Stops at MAX_DEPTH + 1. */
function valueDepth(value: unknown, depth: number): number {
  if (typeof value !== 'object' || value === null || depth > MAX_DEPTH) return depth;
  let deepest = depth + 1;
  for (const key in value) {
    deepest = Math.max(deepest, valueDepth((value as Record<string, unknown>)[key], depth + 1));
  }
  return deepest;
}

/** The same of a text that has not been parsed: brackets outside strings. */
function textDepth(text: string): number {
  let depth = 0;
  let deepest = 0;
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (quoted) {
      if (code === 0x5c) index++;
      else if (code === 0x22) quoted = false;
    } else if (code === 0x22) quoted = true;
    else if (code === 0x7b || code === 0x5b) {
      deepest = Math.max(deepest, ++depth);
      if (deepest > MAX_DEPTH) return deepest;
    } else if (code === 0x7d || code === 0x5d) depth--;
  }
  return deepest;
}

function checkShape(shape: Shape, value: unknown, source: Source): void {
  try {
    shape(value, '');
  } catch (error) {
    if (error instanceof ShapeError) refuse(source, error.path, error.message);
    throw error;
  }
}

function refuse(source: Source, field: string, reason: string, remedy?: string): never {
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: source.op,
    id: source.id,
    object: field === '' ? source.file : `${source.file}: ${field}`,
    reason,
    remedy,
  });
}
