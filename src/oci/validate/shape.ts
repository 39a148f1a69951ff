/**
 * Shapes: what a JSON value must look like before anything reads its fields. A shape throws ShapeError with the path
 * of the first value that does not fit. It also deletes fields that are null, because the specification's Go types
 * make null and absent the same thing. Fields without a shape are left alone: "a runtime MUST ignore unknown
 * properties" (config.md, "Extensibility").
 */
export type Shape = (value: unknown, path: string) => void;

export class ShapeError extends Error {
  readonly path: string;
  constructor(path: string, reason: string) {
    super(reason);
    this.path = path;
  }
}

/** A value for an error message: short, on one line, quoted when it is a string. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 64)}…" (${text.length - 2} characters)`;
}

type WellFormed = string & { isWellFormed(): boolean };

export interface TextOptions {
  /** Longest allowed, in UTF-16 units (never more than bytes). */
  max?: number;
  nonEmpty?: boolean;
}

/** PATH_MAX of the kernel, with the terminating zero. */
const PATH_MAX = 4096;

/** A string without zero bytes (it ends up in a system call) that is well-formed Unicode (it is encoded as UTF-8). */
export function text({ max = 128 * 1024 - 1, nonEmpty = false }: TextOptions = {}): Shape {
  return (value, path) => {
    if (typeof value !== 'string') throw new ShapeError(path, `must be a string, is ${show(value)}`);
    if (nonEmpty && value === '') throw new ShapeError(path, 'must not be empty');
    if (value.length > max) {
      throw new ShapeError(path, `is ${value.length} characters long, at most ${max} are possible`);
    }
    if (value.includes('\0')) throw new ShapeError(path, 'contains a zero byte');
    // JSON can spell half of a surrogate pair, UTF-8 cannot. (ES2024; every Node.js from 20 on has it.)
    if (!(value as WellFormed).isWellFormed()) throw new ShapeError(path, 'is not well-formed Unicode');
  };
}

/** A path of the host or of the container; whether it must be absolute is a check's business. */
export const path: Shape = text({ max: PATH_MAX - 1 });
export const nonEmptyPath: Shape = text({ max: PATH_MAX - 1, nonEmpty: true });

/** Text of any length that no system call takes whole (annotations, seccomp metadata). */
export const longText: Shape = text({ max: 4 * 1024 * 1024 });

export const bool: Shape = (value, path) => {
  if (typeof value !== 'boolean') throw new ShapeError(path, `must be true or false, is ${show(value)}`);
};

/** An integer in [min, max]. Values past 2^53 come out of JSON.parse rounded; `unlimited` is 2^64-1 after rounding. */
export function integer(min: number, max: number): Shape {
  return (value, path) => {
    if (typeof value !== 'number' || !Number.isInteger(value)) {
      throw new ShapeError(path, `must be an integer, is ${show(value)}`);
    }
    if (value < min || value > max) throw new ShapeError(path, `must be from ${min} to ${max}, is ${value}`);
  };
}

export const uint16 = integer(0, 0xffff);
export const uint32 = integer(0, 0xffffffff);
export const int32 = integer(-0x80000000, 0x7fffffff);
export const int64 = integer(-(2 ** 63), 2 ** 63);
export const uint64 = integer(0, 2 ** 64);

/** A list of at most `max` values of one shape; null elements are refused by the element's shape. */
export function list(element: Shape, max = 65536): Shape {
  return (value, path) => {
    if (!Array.isArray(value)) throw new ShapeError(path, `must be a list, is ${show(value)}`);
    if (value.length > max) {
      throw new ShapeError(path, `has ${value.length} elements, at most ${max} are possible`);
    }
    for (let index = 0; index < value.length; index++) element(value[index], `${path}[${index}]`);
  };
}

/** An object used as a map: any keys without zero bytes, values of one shape. */
export function map(element: Shape): Shape {
  const key = text();
  return (value, path) => {
    for (const [name, entry] of Object.entries(asObject(value, path))) {
      key(name, `${path} key`);
      element(entry, `${path}[${show(name)}]`);
    }
  };
}

/** An object with known fields; `required` ones must be there. Other fields are not looked at. */
export function object(fields: Record<string, Shape>, required: readonly string[] = []): Shape {
  const known = Object.entries(fields);
  return (value, path) => {
    const record = asObject(value, path);
    const prefix = path === '' ? '' : `${path}.`;
    for (const [name, shape] of known) {
      if (!Object.hasOwn(record, name)) continue;
      if (record[name] === null) delete record[name];
      else shape(record[name], prefix + name);
    }
    for (const name of required) {
      if (!Object.hasOwn(record, name)) throw new ShapeError(prefix + name, 'is required and missing');
    }
  };
}

function asObject(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ShapeError(path === '' ? 'top level' : path, `must be an object, is ${show(value)}`);
  }
  return value as Record<string, unknown>;
}
