import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Linux, NamespaceType, Process, Spec } from '../oci/types.ts';
import type { HostFacts, PlanInput, Step, Warn } from './inputs.ts';

/** new: made by Clone. joined: entered by path. none: the launcher's own. */
export type Namespace = { kind: 'none' } | { kind: 'new' } | { kind: 'joined'; path: string };

/** Hands out slot numbers: 1 to 4095, each for one descriptor. */
export class Slots {
  #used = 0;
  readonly #refuse: (object: string, reason: string) => never;

  constructor(refuse: (object: string, reason: string) => never) {
    this.#refuse = refuse;
  }

  next(): number {
    if (this.#used === 4095) this.#refuse('mounts', 'need more than 4095 descriptors at once');
    return ++this.#used;
  }
}

/** What every contributor of a create plan sees. */
export interface CreateContext {
  input: PlanInput;
  spec: Spec;
  process: Process;
  linux: Linux;
  host: HostFacts;
  slots: Slots;
  warn: Warn;
  namespaces: Readonly<Record<NamespaceType, Namespace>>;
  /** The container is in another user namespace than the launcher. */
  inUserNamespace: boolean;
  /** Ends the compilation. FailedPrecondition: valid, but not on this host or by this version. */
  refuse: (object: string, reason: string, remedy?: string) => never;
}

/** A contribution of steps to the two stages. */
export interface Contribution {
  /** Opens by the host's names; before Clone unless the launcher has no privilege before it. */
  sources: Step[];
  /** After Clone. */
  inner: Step[];
}

export function refuser(op: string, id: string): (object: string, reason: string, remedy?: string) => never {
  return (object, reason, remedy) => {
    throw new RuntimeError({ code: ErrorCode.FailedPrecondition, op, id, object, reason, remedy });
  };
}

/** Sorts the namespaces of a configuration; the same type is in it once (checked by parseSpec). */
export function namespacesOf(linux: Linux): Record<NamespaceType, Namespace> {
  const found: Record<NamespaceType, Namespace> = {
    pid: { kind: 'none' },
    network: { kind: 'none' },
    mount: { kind: 'none' },
    ipc: { kind: 'none' },
    uts: { kind: 'none' },
    user: { kind: 'none' },
    cgroup: { kind: 'none' },
    time: { kind: 'none' },
  };
  for (const { type, path = '' } of linux.namespaces ?? []) {
    if (!Object.hasOwn(found, type)) continue;
    found[type] = path === '' ? { kind: 'new' } : { kind: 'joined', path };
  }
  return found;
}

export function createContext(input: PlanInput, warn: Warn): CreateContext {
  const refuse = refuser('create', input.id);
  const { spec } = input;
  const linux = spec.linux ?? {};
  const process = spec.process ?? refuse('config.json: process', 'is required and missing');
  const namespaces = namespacesOf(linux);
  return {
    input,
    spec,
    process,
    linux,
    host: input.host,
    slots: new Slots(refuse),
    warn,
    namespaces,
    inUserNamespace: namespaces.user.kind !== 'none',
    refuse,
  };
}
