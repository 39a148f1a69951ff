/** What a verb of the command line is. Each is a module of its own, loaded only when it is asked for. */
import type { Arguments, Flag } from './flags.ts';
import { usageError } from './flags.ts';
import type { Session } from './session.ts';

export interface Command {
  /** After the verb in the usage line: "<container-id>". */
  operands: string;
  /** How many operands: least and most. */
  count: [number, number];
  flags: readonly Flag[];
  /** Flags end at the first operand. */
  flagsFirst?: boolean;
  /** Resolves with the exit status. */
  run(session: Session, args: Arguments): Promise<number>;
}

/** Sentence for a wrong number of operands; undefined when it is right. */
export function checkCount(verb: string, command: Command, args: Arguments): void {
  const [least, most] = command.count;
  const given = args.operands.length;
  if (given >= least && given <= most) return;
  const wanted =
    least === most ? `exactly ${least}` : given < least ? `at least ${least}` : `at most ${most}`;
  throw usageError(verb, `needs ${wanted} argument${wanted.endsWith(' 1') ? '' : 's'}, got ${given}`);
}
