/**
 * The profile "strict": what it does otherwise than the table. Calls with paths are the supervisor's, which opens what
 * they name as the caller would and hands it over; a few rare calls go too.
 *
 * Direct all the same, with a notice to the supervisor before: execve, chdir's kin and what changes credentials. Nobody
 * but the caller can do them, and what they can reach is what the mount namespace holds; docs/sentry.md says more.
 */
import { systemCallNumbers } from './numbers.ts';
import type { Decision, HandlerName, SystemCall } from './rules.ts';
import { systemCalls } from './syscalls.ts';

type Change = readonly [names: string, decision: Decision, note: string];

const broker = (names: string, handler: HandlerName, note: string): Change => [
  names,
  { use: 'broker', handler },
  note,
];
const notice = (names: string, handler: HandlerName, note: string): Change => [
  names,
  { use: 'notice', handler },
  note,
];

const O_PATH = 0o10000000;

const changes: readonly Change[] = [
  broker('open creat', 'open', 'opened by the supervisor as the caller, and handed over'),
  [
    'openat',
    { use: 'broker', handler: 'open', direct: [{ arg: 2, and: O_PATH, in: [O_PATH] }] },
    'as open; O_PATH, which opens no file and which the kernel does not let be handed over, is direct',
  ],
  broker('stat lstat', 'stat', 'of what the supervisor found'),
  [
    'newfstatat',
    { use: 'direct' },
    'with AT_EMPTY_PATH it is what C libraries do fstat with, and that flag keeps no path from being walked',
  ],
  broker('statx', 'statx', 'of what the supervisor found'),
  broker('access faccessat faccessat2', 'access', 'with the real ids of the caller'),
  broker('readlink readlinkat', 'readLink', 'links of procfs say what the caller would see'),
  broker('statfs fstatfs', 'statFileSystem', 'of what the supervisor found'),
  broker('inotify_add_watch', 'watchFile', 'of what the supervisor found'),
  broker(
    'mkdir mkdirat',
    'makeDirectory',
    "in a directory that the supervisor found, with the caller's umask",
  ),
  broker('mknod mknodat', 'makeNode', 'files, fifos, sockets; no devices'),
  broker('unlink unlinkat rmdir', 'unlink', 'in a directory that the supervisor found'),
  broker('rename renameat renameat2', 'rename', 'between directories that the supervisor found'),
  broker('link linkat', 'link', 'between directories that the supervisor found'),
  broker('symlink symlinkat', 'symlink', 'in a directory that the supervisor found'),
  broker('chmod fchmodat fchmodat2', 'changeMode', 'of what the supervisor found'),
  broker('chown lchown fchownat', 'changeOwner', 'of what the supervisor found'),
  broker('utime utimes futimesat', 'changeTimes', 'of what the supervisor found'),
  [
    'utimensat',
    { use: 'broker', handler: 'changeTimes', direct: [{ arg: 1, null: true }] },
    'of what the supervisor found; without a path, which is how C libraries do futimens, direct',
  ],
  broker('truncate', 'truncate', 'of what the supervisor opened'),
  broker('getcwd', 'workingDirectory', 'from procfs'),
  broker('getsockname getpeername', 'socketName', "of the caller's descriptor"),
  broker('flock', 'lock', "on the caller's descriptor, by a thread of its own if it has to wait"),
  broker('ftruncate', 'truncate', "on the caller's descriptor"),
  broker('fsync fdatasync', 'synchronize', "on the caller's descriptor, by a thread of its own"),
  notice('setuid setgid setresuid setresgid setgroups capset', 'credentials', 'ids of the user namespace'),
  notice('execve', 'execution', 'the kernel opens the program, within the mount namespace'),
  notice('umask', 'umask', 'of the calling process'),
  notice('chroot', 'root', 'within the mount namespace, and the supervisor follows'),
  ['sendfile', { use: 'refuse', errno: 'EINVAL' }, 'as between files that cannot do it; programs copy'],
  ['membarrier sendmmsg preadv', { use: 'refuse', errno: 'ENOSYS' }, 'programs go on with other calls'],
];

const changed: ReadonlyMap<number, SystemCall> = new Map(
  changes.flatMap(([names, decision, note]) =>
    names.split(' ').map((name): [number, SystemCall] => {
      const number = systemCallNumbers.get(name);
      if (number === undefined) throw new Error(`sentry: ${name}: no such system call`);
      return [number, { number, name, decision, note }];
    }),
  ),
);

/** Every known call under the profile "strict", by number. */
export const strictCalls: readonly SystemCall[] = systemCalls.map((call) => changed.get(call.number) ?? call);

/** The calls that the two profiles treat differently. */
export const strictChanges: readonly SystemCall[] = [...changed.values()];

/** Whether any form of the call is carried out by the host's kernel with the workload's arguments. */
export function reachesKernel(decision: Decision): boolean {
  if (decision.use === 'broker') return decision.direct !== undefined;
  return decision.use === 'direct' || decision.use === 'notice';
}
