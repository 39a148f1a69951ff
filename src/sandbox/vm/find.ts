/** Finds a pod's virtual machine for who looks from outside: the command line, a benchmark. Reads; changes nothing. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { loadSandbox, type SandboxRecord } from './record.ts';

export interface FoundSandbox {
  /** Its directory below the state root. */
  dir: string;
  record: SandboxRecord;
}

/** All virtual machines of a state root; what is being made or removed meanwhile is left out. */
export function listSandboxes(root: string): FoundSandbox[] {
  const top = join(root, 'vm');
  let names: string[];
  try {
    names = readdirSync(top).sort();
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const dir = join(top, name);
    try {
      const record = loadSandbox(join(dir, 'sandbox.pb'));
      return record === undefined ? [] : [{ dir, record }];
    } catch {
      return [];
    }
  });
}

/** The virtual machine of a pod, by the pod's or a container's id. NotFound; FailedPrecondition when two have that id. */
export function findSandbox(op: string, root: string, id: string): FoundSandbox {
  const found = listSandboxes(root).filter(
    ({ record }) => record.group === id || record.containers?.some((container) => container.id === id),
  );
  const [first, second] = found;
  const fail = (code: ErrorCode, reason: string): RuntimeError =>
    new RuntimeError({ code, op, id, object: 'virtual machine', reason });
  if (first === undefined) throw fail(ErrorCode.NotFound, `none below ${join(root, 'vm')}`);
  if (second !== undefined) {
    const namespaces = found.map(({ record }) => record.namespace).join(', ');
    throw fail(ErrorCode.FailedPrecondition, `several have this id, in the namespaces ${namespaces}`);
  }
  return first;
}
