/** Which wall a container gets: --wall of the verb, before the verb, or the annotation; runc's kind when none says. */
import type { Spec } from '../oci/types.ts';
import type { Wall } from '../sandbox/backend.ts';
import type { Arguments, Flag } from './flags.ts';
import { usageError } from './flags.ts';
import type { Session } from './session.ts';

export const WALL_ANNOTATION = 'io.bulkhead.wall';

/** Those that this command has; what needs a monitor is containerd's only. */
export const walls: readonly Wall[] = ['namespace', 'sentry'];

export const wallFlag: Flag = {
  name: 'wall',
  kind: 'string',
  usage: `what is between container and host: ${walls.join(' or ')} (default: annotation ${WALL_ANNOTATION}, or namespace)`,
};

/** InvalidArgument for a wall that there is not. */
export function chooseWall(session: Session, verb: string, args: Arguments, spec: Spec): Wall {
  const asked = args.string('wall') ?? session.globals.wall;
  const name = asked ?? spec.annotations?.[WALL_ANNOTATION] ?? 'namespace';
  const wall = walls.find((known) => known === name);
  if (wall !== undefined) return wall;
  const where = asked === undefined ? `annotation ${WALL_ANNOTATION}` : 'flag --wall';
  throw usageError(verb, `${where}: ${JSON.stringify(name)} is none of ${walls.join(', ')}`);
}
