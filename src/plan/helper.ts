/** The plan of a process in the runtime's own namespaces: hooks, helpers. No Clone: the launched process itself execs. */
import type { bulkhead } from '../gen/bulkhead.js';

export interface HelperInput {
  /** For messages. */
  id: string;
  /** Absolute path of the executable. */
  path: string;
  /** With args[0]; default: the path. */
  args?: string[] | undefined;
  /** "KEY=value"; nothing is inherited. */
  env?: string[] | undefined;
  /** Where it begins; default: where the launching process is. */
  cwd?: string | undefined;
}

export function compileHelper(input: HelperInput): bulkhead.plan.v1.ILaunchPlan {
  const { id, path, cwd } = input;
  const args = input.args === undefined || input.args.length === 0 ? [path] : input.args;
  const exec = { exec: { file: path, args, env: input.env ?? [] } };
  return { version: 1, id, steps: [...(cwd === undefined ? [] : [{ chdir: { path: cwd } }]), exec] };
}
