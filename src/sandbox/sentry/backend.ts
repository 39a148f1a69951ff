/**
 * The sentry wall: the container's process runs behind a filter that lets a short list of system calls through, and a
 * supervisor (native/sentry) answers those that are brokered.
 *
 *   create: adapt config.json → plan → journal → supervisor up, in the container's cgroup → container up to the gate →
 *   supervisor into the container's user namespace
 *
 * The monitor ends the container when its supervisor ends (Launch.dies_with), also while no engine is there; under the
 * command line, which has no monitor, a guard that the supervisor forks does. The supervisor ends by itself when the
 * last process that it watches is gone.
 */
import { mkdirSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Spec } from '../../oci/types.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { LaunchPlan, Step } from '../../plan/inputs.ts';
import type { ContainerRecord } from '../../state/index.ts';
import { specOf } from '../../state/spec.ts';
import type { CreateInput, ExecInput } from '../backend.ts';
import { LaunchError, type Executor, type LaunchResult } from '../executor.ts';
import { HostBackend, type BackendHost, type CompiledCreate, type CompileInput } from '../host_backend.ts';
import { brokeredCalls, compileFilter, FILTER_FLAG_WAIT_KILLABLE_RECV, type Report } from './filter.ts';
import { podMapping } from './ids.ts';
import { withMounts } from './mounts.ts';
import { sentryOptions, type Profile, type SentryOptions } from './options.ts';
import type { SystemCall } from './rules.ts';
import { supervisorSocket } from './socket.ts';
import { supervise, supervisorPlan, type Supervision, type SupervisorPlan } from './plan.ts';
import { socketPrograms } from './socket_program.ts';
import { sentryProcess, sentrySpec } from './spec.ts';
import { strictCalls } from './strict.ts';
import { systemCalls } from './syscalls.ts';

export interface SentryHost {
  /** bulkhead-sentry. */
  program: string;
  /** Where the supervisors' sockets are; made with mode 0700. */
  socketDir: string;
  /** process.arch */
  arch: string;
  sysFiles: readonly string[];
}

interface CompiledSentry extends CompiledCreate {
  /** config.json as this wall has it. */
  spec: Spec;
  socket: string;
}

const SIGKILL = 9;
const SUPERVISOR_SUFFIX = '/.sentry';
/** More where calls can wait for a fifo or a slow disk. */
const THREADS: Readonly<Record<Profile, number>> = { kernel: 1, strict: 16 };
/**
 * Where the root file system is attached before pivot_root: a directory that exists everywhere, that the pod's ids can
 * reach (bundles are often closed to all but root), and that nothing in the container's own mount namespace needs.
 */
const STAGE = '/sys';
const ENTER_TIMEOUT_MS = 20_000;
const NO_STDIO = { stdin: '', stdout: '', stderr: '', terminal: false };

export class SentryBackend extends HostBackend {
  readonly wall = 'sentry';
  readonly #sentry: SentryHost;
  readonly #filters = new Map<string, Uint8Array>();

  constructor(host: BackendHost, sentry: SentryHost) {
    super(host);
    this.#sentry = sentry;
  }

  override async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    const id = record.id ?? '';
    const { executor } = input;
    if (input.rootfsMounts.length === 0) checkDirectory(id, record.rootfs ?? '');
    const { spec, plan, cgroupSteps, socket } = this.#compile(record, input);
    record.spec = Buffer.from(JSON.stringify(spec));
    this.checkCgroupsFree(record);
    input.journal(record);
    const diesWith = supervisorKey(id);
    await this.#launchSupervisor(record, executor, cgroupSteps, spec);
    try {
      await this.launchInit(record, input, plan, { diesWith });
      await enterSandbox(socket, record.init?.pid ?? 0, executor.transient === true);
    } catch (error) {
      await executor.signal(diesWith, SIGKILL).catch(() => {});
      throw error;
    }
  }

  /** The plan of the container's process; its supervisor has one of its own. */
  override compile(record: ContainerRecord, input: CompileInput): LaunchPlan {
    return this.#compile(record, input).plan;
  }

  #compile(record: ContainerRecord, input: CompileInput): CompiledSentry {
    const id = record.id ?? '';
    this.#checkHost(id);
    const { sysFiles } = this.#sentry;
    const mapping = podMapping(record.namespace ?? '', record.group ?? '');
    const { spec, mapped } = sentrySpec({ id, spec: input.spec, mapping, sysFiles });
    const supervision = this.#supervision(record, spec);
    const variation = { mappedRootfs: mapped, joinOnly: true, stage: STAGE };
    const { plan, cgroupSteps } = this.compileVariation(record, { ...input, spec }, variation);
    return { spec, plan: supervise(plan, supervision), cgroupSteps, socket: supervision.socket };
  }

  override exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult> {
    const process = sentryProcess('exec', record.id ?? '', input.process);
    return super.exec(record, { ...input, process });
  }

  /** Without the supervisor, which shares the container's cgroup but not its pid namespace. */
  override pids(record: ContainerRecord): number[] {
    const own = pidNamespace('self');
    return super.pids(record).filter((pid) => pidNamespace(pid) !== own);
  }

  /** What is left of a supervisor goes first: it is in the cgroup. */
  override async destroy(record: ContainerRecord): Promise<void> {
    if ((record.cgroupPaths ?? []).length > 0) await this.killAll(record);
    await super.destroy(record);
    rmSync(this.#socket(record), { force: true });
  }

  protected override finishExec(record: ContainerRecord, plan: LaunchPlan): LaunchPlan {
    return supervise(plan, this.#supervision(record, specOf(record)));
  }

  async #launchSupervisor(
    record: ContainerRecord,
    executor: Executor,
    cgroupSteps: readonly Step[],
    spec: Spec,
  ): Promise<void> {
    const options = sentryOptions(record.id ?? '', spec.annotations);
    const key = supervisorKey(record.id ?? '');
    mkdirSync(this.#sentry.socketDir, { recursive: true, mode: 0o700 });
    const plan = supervisorPlan({
      id: key,
      program: this.#sentry.program,
      socket: this.#socket(record),
      cgroupSteps,
      sockets: this.#sockets(record, options),
      memoryCgroup: this.memoryCgroup(record),
      threads: THREADS[options.profile],
      table: brokeredCalls(callsOf(options)),
      policy: this.#filterOf(options, 'none'),
    });
    const forget = executor.onExit((exit) => {
      if (exit.key !== key) return;
      forget();
      executor.forget(key).catch(() => {});
    });
    const launch = (): Promise<unknown> => executor.launch(key, encodePlan(plan), NO_STDIO);
    try {
      await launch().catch(async (error: unknown) => {
        // Of a create that a former engine did not finish.
        if (!(error instanceof LaunchError) || error.failure.op !== 'duplicate key') throw error;
        await endSupervisor(executor, key);
        await launch();
      });
    } catch (error) {
      forget();
      throw error;
    }
  }

  /** FailedPrecondition when there are rules for sockets and no cgroup that could hold them. */
  #sockets(record: ContainerRecord, options: SentryOptions): SupervisorPlan['sockets'] {
    const programs = socketPrograms(options);
    if (programs.length === 0) return undefined;
    const cgroup = this.unifiedCgroup(record);
    if (cgroup !== undefined) return { cgroup, programs };
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id: record.id ?? '',
      object: 'rules for sockets',
      reason: 'this host has no cgroup v2 mounted, where they are kept',
      remedy: 'mount it (mount -t cgroup2 none /sys/fs/cgroup/unified), or leave the annotations out',
    });
  }

  #supervision(record: ContainerRecord, spec: Spec): Supervision {
    const options = sentryOptions(record.id ?? '', spec.annotations);
    return {
      socket: this.#socket(record),
      filter: { program: this.#filterOf(options, options.report), flags: FILTER_FLAG_WAIT_KILLABLE_RECV },
      landlock: options.landlock,
    };
  }

  #filterOf(options: SentryOptions, report: Report): Uint8Array {
    const key = `${options.profile} ${options.mounts} ${report}`;
    const filter = this.#filters.get(key) ?? compileFilter({ calls: callsOf(options), report });
    this.#filters.set(key, filter);
    return filter;
  }

  /** Short: a socket's path has 108 bytes, and a container's id may have as many. */
  #socket({ namespace, id }: ContainerRecord): string {
    return supervisorSocket(this.#sentry.socketDir, namespace ?? '', id ?? '');
  }

  #checkHost(id: string): void {
    if (this.#sentry.arch === 'x64') return;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: 'wall "sentry"',
      reason: `knows the system calls of x86-64 only, and this host is ${this.#sentry.arch}`,
      remedy: 'use the namespace or vm wall',
    });
  }
}

/** The root is attached over a directory of the host, so the kernel's word for a file would be EINVAL. */
function checkDirectory(id: string, rootfs: string): void {
  if (statSync(rootfs, { throwIfNoEntry: false })?.isFile() !== true) return;
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'create',
    id,
    object: `rootfs ${rootfs}`,
    reason: 'not a directory',
    path: rootfs,
  });
}

function callsOf({ profile, mounts }: SentryOptions): readonly SystemCall[] {
  const calls = profile === 'strict' ? strictCalls : systemCalls;
  return mounts ? withMounts(calls) : calls;
}

/** Names the supervisor in the monitor; no exec can have this id. */
export function supervisorKey(id: string): string {
  return `${id}${SUPERVISOR_SUFFIX}`;
}

/** Whether a process of the executor is the wall's own and not the user's. */
export function isSupervisorKey(key: string): boolean {
  return key.endsWith(SUPERVISOR_SUFFIX);
}

/** SIGKILL, then forgotten as soon as it has ended. Rejects after 20 s with the executor's last refusal. */
async function endSupervisor(executor: Executor, key: string): Promise<void> {
  await executor.signal(key, SIGKILL).catch(() => {});
  const deadline = Date.now() + ENTER_TIMEOUT_MS;
  for (;;) {
    try {
      await executor.forget(key);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      if (Date.now() >= deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}

/**
 * Tells the supervisor where it belongs: into the user namespace of the process that waits at the start gate, where it
 * gives up all else. `guard`: that process is killed with the supervisor. Resolves when it is there. Rejects when it
 * could not, or after 20 s.
 */
function enterSandbox(socket: string, pid: number, guard: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const connection = connect(socket);
    const fail = (reason: string): void => {
      connection.destroy();
      reject(new Error(`the supervisor ${reason}`));
    };
    connection.setTimeout(ENTER_TIMEOUT_MS, () => fail('does not answer'));
    connection.once('error', (error) => fail(`cannot be reached: ${error.message}`));
    connection.once('close', () => fail('could not enter the sandbox'));
    connection.once('data', () => {
      resolve();
      connection.destroy();
    });
    connection.write(`enter ${pid}${guard ? ' guard' : ''}`);
  });
}

function pidNamespace(pid: number | 'self'): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return '';
  }
}
