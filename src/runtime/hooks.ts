/**
 * Hooks of the runtime's namespaces: prestart, createRuntime, poststart, poststop (runtime-spec "POSIX-platform Hooks").
 * Each is launched by a plan like everything that runs. createContainer and startContainer are steps of the
 * container's own plan.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { exitCodeOf } from '../base/proc.ts';
import type { State } from '../oci/state.ts';
import { OCI_VERSION, type Hook, type Spec } from '../oci/types.ts';
import { compileHelper } from '../plan/helper.ts';
import { encodePlan } from '../plan/encode.ts';
import type { Executor } from '../sandbox/executor.ts';
import { specOf } from '../state/spec.ts';
import type { Container } from './container.ts';
import type { RuntimeContext } from './context.ts';
import { launchSentence } from './launch_sentence.ts';
import { statusName } from './lifecycle.ts';

export type HookPoint = 'create' | 'poststart' | 'poststop';

/**
 * Runs the hooks of a point in order. A failing hook of `create` fails it; a failing poststart or poststop is logged
 * and the rest run (runtime-spec, lifecycle steps 10 and 13). The hook that runs is killed when
 * `signal` is aborted.
 */
export async function runHooks(
  ctx: RuntimeContext,
  container: Container,
  point: HookPoint,
  signal?: AbortSignal,
): Promise<void> {
  const hooks = hooksAt(specOf(container.record), point);
  for (const [index, hook] of hooks.entries()) {
    try {
      await runHook(ctx, container, hook, `${point}-${index}`, signal);
    } catch (error) {
      if (point === 'create') throw error;
      ctx.log.warning('hook failed', { id: container.id, point, error: String(error) });
    }
  }
}

function hooksAt(spec: Spec, point: HookPoint): Hook[] {
  const { hooks } = spec;
  if (hooks === undefined) return [];
  if (point === 'create') return [...(hooks.prestart ?? []), ...(hooks.createRuntime ?? [])];
  return hooks[point] ?? [];
}

async function runHook(
  ctx: RuntimeContext,
  container: Container,
  hook: Hook,
  name: string,
  signal?: AbortSignal,
): Promise<void> {
  const { executor } = container;
  const key = `${container.id}/hook-${name}`;
  // With the container's other state, so that it goes with it even when we are killed meanwhile.
  const directory = ctx.store.paths.container('hook', container.record.namespace ?? '', container.id);
  const stdin = join(directory, `hook-${name}.json`);
  const { exited, forget } = exitOf(executor, key);
  const kill = (): Promise<void> => executor.signal(key, 9).catch(() => {});
  const abort = (): void => void kill();
  signal?.addEventListener('abort', abort, { once: true });
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    writeFileSync(stdin, JSON.stringify(stateOf(container)), { mode: 0o600 });
    await executor
      .launch(key, encodePlan(compileHelper({ id: key, ...hook, cwd: '/' })), {
        stdin,
        stdout: '',
        stderr: '',
        terminal: false,
      })
      .catch((error: unknown) => {
        throw launchSentence('hook', container.id, error);
      });
    const status = await withTimeout(exited, hook.timeout, kill);
    await executor.forget(key);
    if (status === undefined || status !== 0) throw hookError(container.id, hook, status);
  } finally {
    signal?.removeEventListener('abort', abort);
    forget();
    rmSync(stdin, { force: true });
  }
}

/** The wait status of the hook when it has ended, and what ends the interest in it. */
function exitOf(executor: Executor, key: string): { exited: Promise<number>; forget: () => void } {
  let forget = (): void => {};
  const exited = new Promise<number>((resolve) => {
    forget = executor.onExit((exit) => {
      if (exit.key === key) resolve(exit.waitStatus);
    });
  });
  return { exited, forget };
}

/** The wait status, or undefined when the time (seconds) ran out and the hook was killed. */
async function withTimeout(
  exited: Promise<number>,
  seconds: number | undefined,
  kill: () => Promise<void>,
): Promise<number | undefined> {
  if (seconds === undefined || seconds === 0) return exited;
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), seconds * 1000);
  });
  const status = await Promise.race([exited, expired]);
  clearTimeout(timer);
  if (status === undefined) {
    await kill();
    await exited;
  }
  return status;
}

function hookError(id: string, hook: Hook, status: number | undefined): RuntimeError {
  const reason =
    status === undefined
      ? `did not end within ${hook.timeout} s and was killed`
      : `exit status ${exitCodeOf(status)}`;
  return new RuntimeError({ code: ErrorCode.Unknown, op: 'create', id, object: `hook ${hook.path}`, reason });
}

function stateOf(container: Container): State {
  const { record } = container;
  return {
    ociVersion: OCI_VERSION,
    id: container.id,
    status: statusName(container.status) as State['status'],
    pid: container.init.pid,
    bundle: record.bundle ?? '',
    annotations: record.annotations ?? {},
  };
}
