/** State JSON of the runtime specification (runtime.md, "State"): what `bulkhead state` prints and hooks read. */
export type ContainerStatus = 'creating' | 'created' | 'running' | 'stopped';

export interface State {
  /** Version that the state complies with, not that of config.json. */
  ociVersion: string;
  id: string;
  /** runc adds "paused"; the specification lets runtimes define more. */
  status: ContainerStatus | 'paused';
  pid?: number;
  bundle: string;
  annotations?: Record<string, string>;
}

/**
 * The state as hooks read it, split where the pid goes: the executor knows the pid only when it runs. Both halves are
 * bytes of one JSON object: prefix + decimal pid + suffix.
 */
export function stateAroundPid(state: Omit<State, 'pid'>): { prefix: Uint8Array; suffix: Uint8Array } {
  const { ociVersion, id, status, bundle, annotations } = state;
  const head = JSON.stringify({ ociVersion, id, status });
  const tail = JSON.stringify(annotations === undefined ? { bundle } : { bundle, annotations });
  const utf8 = new TextEncoder();
  return { prefix: utf8.encode(`${head.slice(0, -1)},"pid":`), suffix: utf8.encode(`,${tail.slice(1)}`) };
}

/** Seccomp notification: what the listener gets with the descriptor (config-linux.md, "containerProcessState"). */
export interface ContainerProcessState {
  ociVersion: string;
  fds: string[];
  pid: number;
  metadata?: string;
  state: State;
}
