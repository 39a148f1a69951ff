/** A backend that launches through the executor it is given and touches nothing on the host. */
import type { Backend, CreateInput, ExecInput } from '../../src/sandbox/backend.ts';
import type { Any } from '../../src/metrics/index.ts';
import type { LinuxResources } from '../../src/oci/types.ts';
import type { LaunchResult } from '../../src/sandbox/executor.ts';
import type { ContainerRecord } from '../../src/state/index.ts';

export class FakeBackend implements Backend {
  readonly wall = 'namespace';
  readonly calls: string[] = [];
  /** Set: the next create fails with it, after the journal was written. */
  createError: Error | undefined;
  privatePidNamespace = true;
  onOom: () => void = () => {};
  onKillAll: (id: string) => void = () => {};

  async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    this.calls.push(`create ${record.id}`);
    record.privatePidNamespace = this.privatePidNamespace;
    input.journal(record);
    if (this.createError !== undefined) throw this.createError;
    const result = await input.executor.launch(record.id ?? '', new Uint8Array(), input.stdio);
    if (record.init) record.init.pid = result.pid;
  }

  exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult> {
    this.calls.push(`exec ${record.id}/${input.execId}`);
    return input.executor.launch(`${record.id}/${input.execId}`, new Uint8Array(), input.stdio);
  }

  pause(record: ContainerRecord): Promise<void> {
    this.calls.push(`pause ${record.id}`);
    return Promise.resolve();
  }

  resume(record: ContainerRecord): Promise<void> {
    this.calls.push(`resume ${record.id}`);
    return Promise.resolve();
  }

  update(record: ContainerRecord, resources: LinuxResources): Promise<void> {
    this.calls.push(`update ${record.id} ${JSON.stringify(resources)}`);
    return Promise.resolve();
  }

  stats(): Any {
    return { typeUrl: 'io.containerd.cgroups.v1.Metrics', value: new Uint8Array() };
  }

  pids(record: ContainerRecord): number[] {
    return [record.init?.pid ?? 0, ...(record.execs ?? []).map((exec) => exec.pid ?? 0)];
  }

  killAll(record: ContainerRecord): Promise<void> {
    this.calls.push(`kill-all ${record.id}`);
    this.onKillAll(record.id ?? '');
    return Promise.resolve();
  }

  watchOom(record: ContainerRecord, onOom: () => void): () => void {
    this.onOom = onOom;
    return () => this.calls.push(`end-oom-watch ${record.id}`);
  }

  destroy(record: ContainerRecord): Promise<void> {
    this.calls.push(`destroy ${record.id}`);
    return Promise.resolve();
  }
}
