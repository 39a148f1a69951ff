/** Flags about devices asked for by name. */
import { resolve } from 'node:path';
import type { Arguments, Flag } from './flags.ts';
import type { Session } from './session.ts';

export const specDirFlag: Flag = {
  name: 'cdi-spec-dir',
  kind: 'list',
  usage: 'directory of CDI specs, lowest priority first; repeatable (default: /etc/cdi, /var/run/cdi)',
};

export const deviceFlags: readonly Flag[] = [
  { name: 'device', kind: 'list', usage: 'CDI device to add, as vendor/class=name; repeatable' },
  specDirFlag,
];

/** undefined: the CDI specification's directories. */
export function specDirs(session: Session, args: Arguments): string[] | undefined {
  const given = args.list('cdi-spec-dir').map((dir) => resolve(session.cwd, dir));
  return given.length === 0 ? undefined : given;
}
