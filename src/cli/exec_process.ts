/** The process of an exec: the container's own as a pattern, changed by flags; or read from a file. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxCapabilities, Process, User } from '../oci/types.ts';
import { parseProcess } from '../oci/validate/index.ts';
import type { Arguments } from './flags.ts';
import { usageError } from './flags.ts';

/** InvalidArgument names the flag, or the field of the file. */
export function execProcess(id: string, own: Process, args: Arguments, cwd: string): Process {
  const file = args.string('process');
  const process = file === undefined ? fromFlags(own, args) : fromFile(id, resolve(cwd, file));
  return parseProcess(JSON.stringify(process), id);
}

function fromFile(id: string, path: string): Process {
  try {
    return parseProcess(readFileSync(path, 'utf8'), id);
  } catch (error) {
    if (error instanceof RuntimeError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'exec',
      id,
      object: path,
      reason: message,
      path,
      errno: code,
      cause: error,
    });
  }
}

function fromFlags(own: Process, args: Arguments): Process {
  const command = args.operands.slice(1);
  if (command.length === 0) throw usageError('exec', 'needs a command, or --process');
  const { consoleSize: _size, ...rest } = own;
  return {
    ...rest,
    args: command,
    terminal: args.boolean('tty'),
    cwd: args.string('cwd') ?? own.cwd,
    env: [...(own.env ?? []), ...args.list('env')],
    user: userOf(own.user, args),
    capabilities: withCapabilities(own.capabilities, args.list('cap')),
    ...(args.has('no-new-privs') ? { noNewPrivileges: args.boolean('no-new-privs') } : {}),
    ...(args.has('apparmor') ? { apparmorProfile: args.string('apparmor') ?? '' } : {}),
    ...(args.has('process-label') ? { selinuxLabel: args.string('process-label') ?? '' } : {}),
  };
}

/** "UID[:GID]"; gid 0 when it is left out, as runc has it. */
function userOf(own: User, args: Arguments): User {
  const text = args.string('user');
  const added = args.list('additional-gids').map((gid) => idOf('additional-gids', gid));
  const additionalGids = [...(own.additionalGids ?? []), ...added];
  if (text === undefined) return { ...own, additionalGids };
  const [uid = '', gid, ...more] = text.split(':');
  if (more.length > 0) throw usageError('exec', `flag --user: ${JSON.stringify(text)} is not UID[:GID]`);
  return {
    ...own,
    uid: idOf('user', uid),
    gid: gid === undefined ? own.gid : idOf('user', gid),
    additionalGids,
  };
}

function idOf(flag: string, text: string): number {
  const id = Number(text);
  if (/^\d{1,10}$/.test(text) && id < 2 ** 32) return id;
  throw usageError('exec', `flag --${flag}: ${JSON.stringify(text)} is not a numeric id`);
}

/** Added to all sets but inheritable (CVE-2022-29162), and to ambient only where the container has ambient ones. */
function withCapabilities(
  own: LinuxCapabilities | undefined,
  added: readonly string[],
): LinuxCapabilities | undefined {
  if (added.length === 0) return own;
  const names = added.map((name) => (/^cap_/i.test(name) ? name.toUpperCase() : `CAP_${name.toUpperCase()}`));
  const join = (set: string[] | undefined): string[] => [...new Set([...(set ?? []), ...names])];
  return {
    ...own,
    bounding: join(own?.bounding),
    effective: join(own?.effective),
    permitted: join(own?.permitted),
  };
}
