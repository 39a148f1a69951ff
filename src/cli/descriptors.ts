/** Descriptors of this invocation that a container is to have: LISTEN_FDS (sd_listen_fds(3)) and --preserve-fds. */
import { readlinkSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

const FIRST = 3;
/** What the addon's launch takes at most. */
const MOST = 512;

export interface PassedDescriptors {
  fds: number[];
  /** How many of them are LISTEN_FDS. */
  listenFds: number;
}

/** InvalidArgument for a number out of range or a descriptor that is not open. */
export function passedDescriptors(
  op: string,
  id: string,
  preserve: number,
  env: NodeJS.ProcessEnv,
  pid: number,
): PassedDescriptors {
  const listenFds = env['LISTEN_PID'] === String(pid) ? Number(env['LISTEN_FDS'] ?? 0) : 0;
  const count = listenFds + preserve;
  if (!Number.isInteger(count) || preserve < 0 || listenFds < 0 || count > MOST) {
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      reason: `cannot pass ${count} descriptors`,
    });
  }
  const fds = Array.from({ length: count }, (_, index) => FIRST + index);
  for (const fd of fds) {
    if (wasPassed(fd)) continue;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `descriptor ${fd}`,
      reason: 'not open',
      remedy: 'pass it to this command, or lower --preserve-fds',
    });
  }
  return { fds, listenFds };
}

/** Node's own event loop takes the lowest free numbers: an epoll, eventfd or io_uring is its. */
function wasPassed(fd: number): boolean {
  try {
    return !readlinkSync(`/proc/self/fd/${fd}`).startsWith('anon_inode:');
  } catch {
    return false;
  }
}
