/**
 * exec: a further process in a container, in two steps as containerd asks for it: registered, then started. Between the
 * two it is launched up to a gate just before execve, so that the start has only to open it.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Process } from '../oci/types.ts';
import { parseProcess } from '../oci/validate/index.ts';
import type { ExecInput } from '../sandbox/backend.ts';
import type { LaunchResult, StdioPaths } from '../sandbox/executor.ts';
import type { Container, ContainerProcess } from './container.ts';
import { saveProgress, type RuntimeContext } from './context.ts';
import { endProcess } from '../sandbox/executor.ts';
import { checkExecId } from '../state/index.ts';
import { launchSentence } from './launch_sentence.ts';
import { Status, transition } from './lifecycle.ts';

/**
 * Registers an exec. `processJson` is an OCI `process`. AlreadyExists for a known exec id, InvalidArgument with the
 * field's name for a bad process.
 */
export function addExec(
  ctx: RuntimeContext,
  container: Container,
  execId: string,
  processJson: string,
  stdio: StdioPaths,
): ContainerProcess {
  checkExecId(`exec ${container.id}`, execId);
  if (container.execs.has(execId)) {
    throw new RuntimeError({
      code: ErrorCode.AlreadyExists,
      op: 'exec',
      id: container.id,
      object: `exec ${execId}`,
      reason: 'already exists',
    });
  }
  transition('exec', container.init.record.status, container.id);
  const process: Process = parseProcess(processJson, `${container.id}/${execId}`);
  const added = container.addExec({
    id: execId,
    status: Status.STATUS_CREATED,
    terminal: stdio.terminal,
    stdin: stdio.stdin,
    stdout: stdio.stdout,
    stderr: stdio.stderr,
    spec: Buffer.from(JSON.stringify(process)),
  });
  ctx.store.save(container.record);
  return added;
}

/**
 * Starts a process that is not registered: a caller that waits for it itself (command line). Resolves with its pid
 * after execve; `key` of its exit is "ID/EXEC". FailedPrecondition unless the container is created or running.
 */
export async function launchExec(
  container: Container,
  input: Pick<ExecInput, 'execId' | 'process' | 'stdio' | 'options'>,
): Promise<number> {
  transition('exec', container.status, container.id);
  const { executor, backend, record } = container;
  const { pid } = await backend.exec(record, { ...input, executor }).catch((error: unknown) => {
    throw launchSentence('exec', container.id, error, container.record.spec);
  });
  return pid;
}

/**
 * Begins to launch a registered exec, up to its gate. What fails is told by its start, and a container that takes no
 * process now may take one then.
 */
export function prepareExec(container: Container, exec: ContainerProcess): void {
  if (exec.launch !== undefined || container.status !== Status.STATUS_RUNNING) return;
  if (container.process(exec.execId) !== exec || exec.record.status !== Status.STATUS_CREATED) return;
  exec.launch = launchToGate(container, exec);
  exec.launch.catch(() => {});
}

async function launchToGate(container: Container, exec: ContainerProcess): Promise<LaunchResult> {
  const process = JSON.parse(Buffer.from(exec.record.spec ?? []).toString()) as Process;
  const { terminal, stdin, stdout, stderr } = exec.record;
  const stdio = {
    terminal: terminal ?? false,
    stdin: stdin ?? '',
    stdout: stdout ?? '',
    stderr: stderr ?? '',
  };
  const { backend, record, executor } = container;
  const input = { execId: exec.execId, process, stdio, executor, gated: true };
  const launched = await backend.exec(record, input);
  if (launched.pausedAt !== '') exec.waitingPid = launched.pid;
  return launched;
}

/** Ends an exec that was launched and not started; the next start launches it anew. */
export async function unprepareExec(container: Container, exec: ContainerProcess): Promise<void> {
  if (exec.launch === undefined) return;
  await exec.launch.catch(() => {});
  exec.launch = undefined;
  exec.waitingPid = 0;
  await endProcess(container.executor, exec.key);
}

/** Starts a registered exec; resolves with its pid after execve. FailedPrecondition when the init does not run. */
export async function startExec(
  ctx: RuntimeContext,
  container: Container,
  exec: ContainerProcess,
): Promise<number> {
  if (container.init.isStopped) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'exec',
      id: container.id,
      reason: `container ${container.id} init process is not running`,
    });
  }
  transition('exec', container.status, container.id);
  const next = transition('start', exec.record.status, exec.key);
  try {
    const launched = await (exec.launch ??= launchToGate(container, exec));
    if (launched.pausedAt !== '') await container.executor.proceed(exec.key);
    exec.waitingPid = 0;
    exec.record.pid = launched.pid;
  } catch (error) {
    await unprepareExec(container, exec);
    throw launchSentence('exec', exec.key, error, container.record.spec);
  }
  exec.record.status = next;
  saveProgress(ctx, container.record);
  return exec.pid;
}
