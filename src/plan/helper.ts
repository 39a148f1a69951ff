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
}

export function compileHelper(input: HelperInput): bulkhead.plan.v1.ILaunchPlan {
  const { id, path } = input;
  const args = input.args === undefined || input.args.length === 0 ? [path] : input.args;
  return { version: 1, id, steps: [{ exec: { file: path, args, env: input.env ?? [] } }] };
}
