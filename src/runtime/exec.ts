/** exec: a further process in a container, in two steps as containerd asks for it: registered, then started. */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { processStartTime } from '../base/proc.ts';
import type { Process } from '../oci/types.ts';
import { parseProcess } from '../oci/validate/index.ts';
import type { ExecInput } from '../sandbox/backend.ts';
import type { StdioPaths } from '../sandbox/executor.ts';
import type { Container, ContainerProcess } from './container.ts';
import type { RuntimeContext } from './context.ts';
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
  if (execId === '' || container.execs.has(execId)) {
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
  return backend.exec(record, { ...input, executor }).catch((error: unknown) => {
    throw launchSentence('exec', container.id, error);
  });
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
  const next = transition('start', exec.record.status, exec.key);
  const process = JSON.parse(Buffer.from(exec.record.spec ?? []).toString()) as Process;
  const { terminal, stdin, stdout, stderr } = exec.record;
  const stdio = {
    terminal: terminal ?? false,
    stdin: stdin ?? '',
    stdout: stdout ?? '',
    stderr: stderr ?? '',
  };
  const input = { execId: exec.execId, process, stdio, executor: container.executor };
  exec.record.pid = await container.backend.exec(container.record, input).catch((error: unknown) => {
    throw launchSentence('exec', exec.key, error);
  });
  exec.record.pidStartTime = processStartTime(exec.pid) ?? 0;
  if (!exec.isStopped) exec.record.status = next;
  ctx.store.save(container.record);
  return exec.pid;
}
