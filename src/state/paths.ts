/**
 * Where things lie below an instance's state root (BULKHEAD_ROOT, default /run/bulkhead):
 *
 *   tasks/<namespace>/<id>/state.pb      one container
 *   locks/<namespace>/<id>.lock          flock(2) of the command line, so that two verbs do not meet
 *
 * Names become path components, so they are checked here and nowhere else.
 */
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** A directory's name: NAME_MAX of every Linux file system that matters, less ".lock". */
const maxNameLength = 250;

/**
 * Checks a container id: letters, digits and `_ + - .`, not "." or "..", as runc has it; this includes every
 * identifier that containerd lets through. Throws InvalidArgument.
 */
export function checkId(op: string, id: string): void {
  checkName(op, id, 'container id');
}

/** Checks the id of an exec by the same rule: with a slash it would be another process's key. Throws InvalidArgument. */
export function checkExecId(op: string, id: string): void {
  checkName(op, id, 'exec id');
}

/** Checks a containerd namespace by the same rule. Throws InvalidArgument. */
export function checkNamespace(op: string, namespace: string): void {
  checkName(op, namespace, 'namespace');
}

function checkName(op: string, name: string, what: string): void {
  const reason = nameFault(name);
  if (reason === undefined) return;
  const shown = name.length > 64 ? `${name.slice(0, 64)}…` : name;
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op,
    object: `${what} ${JSON.stringify(shown)}`,
    reason,
  });
}

function nameFault(name: string): string | undefined {
  if (name === '') return 'must not be empty';
  if (name.length > maxNameLength) return `longer than ${maxNameLength} characters`;
  if (name === '.' || name === '..') return 'is a directory of its own';
  if (!/^[A-Za-z0-9_+.-]+$/.test(name)) return 'may hold letters, digits and _ + - . only';
  return undefined;
}

/** Paths of one state root. Every name is checked before it becomes part of a path. */
export class StatePaths {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  /** Directory with one entry a namespace. */
  get tasks(): string {
    return join(this.root, 'tasks');
  }

  /** Directory with one entry a container. */
  namespace(op: string, namespace: string): string {
    checkNamespace(op, namespace);
    return `${this.tasks}/${namespace}`;
  }

  /** Directory of one container. */
  container(op: string, namespace: string, id: string): string {
    checkId(op, id);
    return `${this.namespace(op, namespace)}/${id}`;
  }

  /** File that is locked while a verb of the command line changes the container. */
  lock(op: string, namespace: string, id: string): string {
    checkNamespace(op, namespace);
    checkId(op, id);
    return `${this.root}/locks/${namespace}/${id}.lock`;
  }
}
