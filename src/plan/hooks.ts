/**
 * Hooks (config.md, "POSIX-platform Hooks"). prestart and createRuntime run in the runtime's namespaces: the process
 * waits at a gate while the engine launches them. createContainer and startContainer run in the container's
 * namespaces: they are steps.
 */
import type { Hook } from '../oci/types.ts';
import type { CreateContext } from './context.ts';
import type { Step } from './inputs.ts';
import { hookState } from './security.ts';

/** Name of the gate at which the engine runs prestart and createRuntime hooks. */
export const CREATE_RUNTIME_GATE = 'createRuntime';
/** Name of the gate between create and start. */
export const START_GATE = 'start';

export function createRuntimeGate({ spec }: CreateContext, always = false): Step[] {
  const hooks = [...(spec.hooks?.prestart ?? []), ...(spec.hooks?.createRuntime ?? [])];
  return always || hooks.length > 0 ? [{ gate: { point: CREATE_RUNTIME_GATE } }] : [];
}

/**
 * These see the container's mounts with the host's programs: neither the image's environment nor a directory that it could
 * have put files into may decide what is loaded (CVE-2025-23266).
 */
export function createContainerHooks(context: CreateContext): Step[] {
  const steps = hookSteps(context.spec.hooks?.createContainer, hookState(context, 'creating'));
  return steps.length === 0 ? [] : [{ chdir: { path: '/' } }, ...steps];
}

/** Without an environment of their own these get the container's: images rely on it since runc does so. */
export function startContainerHooks(context: CreateContext, env: readonly string[]): Step[] {
  return hookSteps(context.spec.hooks?.startContainer, hookState(context, 'created'), env);
}

function hookSteps(
  hooks: readonly Hook[] = [],
  state: { statePrefix: Uint8Array; stateSuffix: Uint8Array },
  defaultEnv: readonly string[] = [],
): Step[] {
  return hooks.map(({ path, args, env, timeout }) => ({
    runHook: {
      path,
      args: args === undefined || args.length === 0 ? [path] : args,
      env: env === undefined || env.length === 0 ? [...defaultEnv] : env,
      timeoutSeconds: timeout ?? 0,
      ...state,
    },
  }));
}
