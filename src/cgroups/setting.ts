/** One write to a cgroup file, and what the compilers of such writes share. */
import { errnoNumber } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { CgroupLayout } from './host.ts';

/** One write. */
export interface Setting {
  /** As v1 names it: "cpu", "memory", "blkio", …; unified: "". */
  controller: string;
  /** Name in the cgroup's directory. */
  file: string;
  value: string;
  /** What asks for it: "memory.limit", for messages. */
  field: string;
  /** Errnos that mean "this kernel does not have it, and nothing is lost". */
  ignore?: readonly number[];
}

export const absent: readonly number[] = [errnoNumber('ENOENT') ?? 2];

/** What a settings compiler is given beside the resources. */
export interface SettingsContext {
  op: string;
  id: string;
  layout: CgroupLayout;
  /** Takes notes of what is passed over. */
  warn: (message: string) => void;
}

/** InvalidArgument for a value of config.json. */
export function refuseSetting(context: SettingsContext, field: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: context.op,
    id: context.id,
    object: `linux.resources.${field}`,
    reason,
  });
}
