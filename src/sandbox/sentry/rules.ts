/**
 * What a policy may say about the arguments of a system call: tests on registers only. A test never looks behind a
 * pointer, because memory can change between the test and the use (seccomp(2)).
 */

/** Errno values of refusals (asm-generic/errno.h). */
export const errno = {
  EPERM: 1,
  EACCES: 13,
  EBUSY: 16,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSYS: 38,
  ENOPROTOOPT: 92,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
} as const;
export type ErrnoName = keyof typeof errno;

/** One test on an argument (0 to 5). Where the kernel takes an int, its upper half means nothing and is not looked at. */
export type Test =
  /** The lower 32 bits, after `and` (default: all of them), are one of these values. */
  | { arg: number; and?: number; in: readonly number[] }
  /** None of these bits is set in the lower 32. */
  | { arg: number; none: number }
  /** All 64 bits are zero: a null pointer. */
  | { arg: number; null: true };

/** All tests hold. */
export interface Rule {
  when: readonly Test[];
  then: 'direct' | ErrnoName;
}

/**
 * What happens to a system call:
 *   direct   the host's kernel runs it; with `rules`, the first one that fits decides and `otherwise` is the rest
 *   broker   the supervisor answers, by the handler of that name; but for arguments that `direct` is true of
 *   view     the same, and what it answers is the sandbox's own truth instead of the host's
 *   notice   the host's kernel runs it, after the supervisor has heard of it
 *   refuse   this errno, without any kernel code of the call having run
 */
export type Decision =
  | { use: 'direct'; rules?: readonly Rule[]; otherwise?: ErrnoName }
  | { use: 'broker' | 'view' | 'notice'; handler: HandlerName; direct?: Rule['when'] }
  | { use: 'refuse'; errno: ErrnoName };

/** Handlers of the supervisor; their numbers are in native/sentry/handlers.h. */
export const handlers = {
  uname: 1,
  sysinfo: 2,
  personality: 3,
  schedPriorityRange: 4,
  schedGetScheduler: 5,
  schedGetParam: 6,
  clock: 7,
  eventfd: 8,
  timerfd: 9,
  processGroup: 10,
  rusage: 11,
  times: 12,
  getPriority: 13,
  getAffinity: 14,
  ids: 15,
  epoll: 16,
  open: 17,
  stat: 18,
  statx: 19,
  access: 20,
  readLink: 21,
  statFileSystem: 22,
  watchFile: 23,
  makeDirectory: 24,
  makeNode: 25,
  unlink: 26,
  rename: 27,
  link: 28,
  symlink: 29,
  changeMode: 30,
  changeOwner: 31,
  changeTimes: 32,
  truncate: 33,
  credentials: 34,
  execution: 35,
  umask: 36,
  root: 37,
  epollWithFlags: 38,
  inotify: 39,
  setTimerfd: 40,
  removeWatch: 41,
  workingDirectory: 42,
  synchronize: 43,
  socketState: 44,
  socketName: 45,
  lock: 46,
  mount: 47,
  unmount: 48,
} as const;
export type HandlerName = keyof typeof handlers;

export interface SystemCall {
  number: number;
  name: string;
  decision: Decision;
  /** Why, in one line; what a program sees. */
  note: string;
}
