/**
 * What walls have in common whose containers are processes of this host: compiling the plan, having the executor carry
 * it out, and looking after the container's cgroups.
 *
 *   create: cgroup steps + seccomp program + plan → journal (what to undo) → launch up to the start gate
 */
import { readFileSync } from 'node:fs';
import {
  applyResources,
  checkUnoccupied,
  containerPids,
  contributeCgroups,
  execJoinSteps,
  freezeCgroup,
  isFrozen,
  joinSteps,
  killCgroup,
  parseCgroupsPath,
  readMetrics,
  removeCgroups,
  subCgroupView,
  thawCgroup,
  viewOfPaths,
  watchOom,
  type CgroupLayout,
  type CgroupView,
  type OomAddon,
} from '../cgroups/index.ts';
import { encodeMetrics, type Any } from '../metrics/index.ts';
import type { LinuxResources, LinuxSeccomp, Spec } from '../oci/types.ts';
import { compileCreate } from '../plan/compile.ts';
import { encodePlan } from '../plan/encode.ts';
import { compileExec } from '../plan/exec.ts';
import type { HostFacts, LaunchPlan, PlanInput, SeccompProgram, Step } from '../plan/inputs.ts';
import type { ContainerRecord } from '../state/index.ts';
import { LaunchError, type LaunchOptions, type LaunchResult } from './executor.ts';
import type { Backend, CreateInput, ExecInput, RootfsMount, Wall } from './backend.ts';
import { specOf } from '../state/spec.ts';

/** What the backend needs of the machine; `host.ts` reads the real one, tests hand in their own. */
export interface BackendHost {
  layout: () => CgroupLayout;
  facts: () => HostFacts;
  compileSeccomp: (profile: LinuxSeccomp) => SeccompProgram & { warnings: string[] };
  oomAddon: () => OomAddon;
  warn: (id: string, message: string) => void;
}

export type CompileInput = Pick<CreateInput, 'spec' | 'rootfsMounts' | 'options' | 'startFifo'>;

/** A compiled create, and the view of the cgroups that it makes. */
export interface CompiledCreate {
  plan: LaunchPlan;
  /** Steps that make the cgroups, set the limits and join them; part of the plan unless it was compiled without. */
  cgroupSteps: readonly Step[];
}

/** How a wall's plan differs from what config.json alone says. */
export type PlanVariation = Pick<PlanInput, 'mappedRootfs'> & {
  /** Host path over which the root file system is attached; absent: the bundle's own directory for it. */
  stage?: string;
  /** The cgroups are there when the plan runs: it only joins them. */
  joinOnly?: boolean;
};

export abstract class HostBackend implements Backend {
  abstract readonly wall: Wall;
  readonly #host: BackendHost;

  constructor(host: BackendHost) {
    this.#host = host;
  }

  async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    const plan = this.compile(record, input);
    this.checkCgroupsFree(record);
    input.journal(record);
    await this.launchInit(record, input, plan);
  }

  /** FailedPrecondition when other processes are in the cgroups that `record` names. */
  protected checkCgroupsFree(record: ContainerRecord): void {
    try {
      checkUnoccupied(this.view(record), record.id ?? '');
    } catch (error) {
      // Not ours: what undoes this create must not touch them.
      record.cgroupPaths = [];
      throw error;
    }
  }

  /** Carries the plan out up to the start gate, hooks included; fills the record's pid. */
  protected async launchInit(
    record: ContainerRecord,
    input: CreateInput,
    plan: LaunchPlan,
    options?: LaunchOptions,
  ): Promise<void> {
    const id = record.id ?? '';
    const { executor } = input;
    const stdio = { ...input.stdio, stdinAtGate: input.startFifo === undefined };
    const holding = { ...options, holdMounts: true };
    let result = await executor.launch(id, encodePlan(plan), stdio, holding).catch((error: unknown) => {
      throw nameMount(error, plan);
    });
    if (record.init) record.init.pid = result.pid;
    while (result.pausedAt === 'createRuntime') {
      await input.runCreateHooks(result.pid);
      result = await executor.proceed(id);
    }
  }

  /** The launch plan of a create. Fills what `record` says of the container's cgroups; makes nothing. */
  compile(record: ContainerRecord, input: CompileInput): LaunchPlan {
    return this.compileVariation(record, input, {}).plan;
  }

  protected compileVariation(
    record: ContainerRecord,
    input: CompileInput,
    { mappedRootfs, stage, joinOnly = false }: PlanVariation,
  ): CompiledCreate {
    const id = record.id ?? '';
    const { spec } = input;
    const layout = this.#host.layout();
    const location = parseCgroupsPath(spec.linux?.cgroupsPath, id);
    const cgroup = contributeCgroups(spec.linux?.resources, layout, location, { id });
    for (const warning of cgroup.warnings) this.#host.warn(id, warning);
    record.cgroupPaths = cgroup.paths;
    record.cgroupPath = location.name;
    record.cgroupMode = layout.mode;
    record.privatePidNamespace = hasPrivatePidNamespace(spec);
    const planInput: PlanInput = {
      id,
      bundle: record.bundle ?? '',
      spec,
      rootfs: rootfsAt(record.rootfs ?? '', input.rootfsMounts, stage),
      cgroup: { outer: joinOnly ? joinSteps(cgroup.view) : cgroup.outer, view: cgroup.view },
      mappedRootfs,
      seccomp: this.#seccomp(id, spec),
      host: this.#host.facts(),
      gate: input.startFifo === undefined ? { kind: 'sync' } : { kind: 'fifo', path: input.startFifo },
      ...input.options,
    };
    const plan = compileCreate(planInput, (message) => this.#host.warn(id, message));
    return { plan, cgroupSteps: cgroup.outer };
  }

  exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult> {
    const id = record.id ?? '';
    const spec = specOf(record);
    const pid = record.init?.pid ?? 0;
    const planInput = {
      id,
      execId: input.execId,
      process: input.process,
      target: {
        pid,
        startTime: record.init?.pidStartTime ?? 0,
        namespaces: (spec.linux?.namespaces ?? []).map(({ type }) => type),
      },
      cgroup: { outer: this.#joinSteps(record, input.options?.subCgroups ?? []) },
      linux: spec.linux,
      seccomp: this.#seccomp(id, spec),
      host: this.#host.facts(),
      gate: input.gated === true ? { kind: 'sync' as const } : undefined,
      ...input.options,
    };
    const plan = this.finishExec(
      record,
      compileExec(planInput, (message) => this.#host.warn(id, message)),
    );
    const stdio = { ...input.stdio, stdinAtGate: input.gated === true };
    return input.executor.launch(`${id}/${input.execId}`, encodePlan(plan), stdio);
  }

  /** For walls that add to the plan of an exec. */
  protected finishExec(_record: ContainerRecord, plan: LaunchPlan): LaunchPlan {
    return plan;
  }

  pause(record: ContainerRecord): Promise<void> {
    return freezeCgroup(this.view(record), record.id ?? '');
  }

  resume(record: ContainerRecord): Promise<void> {
    thawCgroup(this.view(record), record.id ?? '');
    return Promise.resolve();
  }

  update(record: ContainerRecord, resources: LinuxResources): Promise<void> {
    const id = record.id ?? '';
    const warn = (message: string): void => this.#host.warn(id, message);
    applyResources(this.view(record), this.#host.layout(), resources, { id, warn });
    return Promise.resolve();
  }

  stats(record: ContainerRecord): Any {
    return encodeMetrics(readMetrics(this.view(record), record.id ?? ''));
  }

  pids(record: ContainerRecord): number[] {
    return containerPids(this.view(record));
  }

  async killAll(record: ContainerRecord): Promise<void> {
    const id = record.id ?? '';
    const view = this.view(record);
    await killCgroup(view, { id });
    if (isFrozen(view)) thawCgroup(view, id);
  }

  watchOom(record: ContainerRecord, onOom: () => void): () => void {
    const watch = watchOom(this.view(record), this.#host.oomAddon(), onOom);
    return () => watch.close();
  }

  async destroy(record: ContainerRecord): Promise<void> {
    const id = record.id ?? '';
    const paths = record.cgroupPaths ?? [];
    try {
      await removeCgroups(paths, { id, deadlineMs: 0 });
    } catch {
      // Somebody is in there, or just leaving.
      await this.killAll(record);
      await removeCgroups(paths, { id });
    }
  }

  #joinSteps(record: ContainerRecord, subCgroups: readonly string[]): Step[] {
    const view = this.view(record);
    if (subCgroups.length > 0) return joinSteps(subCgroupView(view, subCgroups, record.id ?? ''));
    return execJoinSteps(view, ownCgroups(record.init?.pid ?? 0));
  }

  /** Directory of the memory controller; empty when there is none. */
  protected memoryCgroup(record: ContainerRecord): string {
    const { hierarchies, unified } = this.view(record);
    return hierarchies.find(({ names }) => names.includes('memory'))?.path ?? unified?.path ?? '';
  }

  /** Directory on the cgroup v2 hierarchy; undefined when the host has none. */
  protected unifiedCgroup(record: ContainerRecord): string | undefined {
    return this.view(record).unified?.path;
  }

  protected view(record: ContainerRecord): CgroupView {
    return viewOfPaths(this.#host.layout(), record.cgroupPaths ?? []);
  }

  #seccomp(id: string, spec: Spec): SeccompProgram | undefined {
    const profile = spec.linux?.seccomp;
    if (profile === undefined) return undefined;
    const { program, flags, warnings } = this.#host.compileSeccomp(profile);
    for (const warning of warnings) this.#host.warn(id, warning);
    return { program, flags };
  }
}

function rootfsAt(path: string, mounts: RootfsMount[], stage: string | undefined): PlanInput['rootfs'] {
  if (stage === undefined) return { path, mounts };
  const directory: RootfsMount = { type: 'bind', source: path, options: ['rbind'] };
  return { path: stage, mounts: mounts.length > 0 ? mounts : [directory] };
}

/** A mount is known by where it goes; the step that failed may only know its file system type. */
export function nameMount(error: unknown, plan: LaunchPlan): unknown {
  if (!(error instanceof LaunchError) || error.failure.index === undefined) return error;
  const slot = plan.steps?.[error.failure.index]?.fsMount?.slot;
  if (slot === undefined) return error;
  const target = plan.steps?.find(({ attach }) => attach?.slot === slot)?.attach?.target;
  return target ? new LaunchError({ ...error.failure, path: target }) : error;
}

/** Then the kernel ends every process of the container with its init. */
function hasPrivatePidNamespace(spec: Spec): boolean {
  const namespace = spec.linux?.namespaces?.find(({ type }) => type === 'pid');
  return namespace !== undefined && (namespace.path === undefined || namespace.path === '');
}

/** Text of /proc/PID/cgroup; empty when the process is gone, which the executor then reports. */
function ownCgroups(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch {
    return '';
  }
}
