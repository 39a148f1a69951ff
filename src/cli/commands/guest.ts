/** `bulkhead guest`: the kernel and the initial file system that virtual machines boot, and what those say. */
import type { Command } from '../command.ts';
import type { Arguments } from '../flags.ts';
import { usageError } from '../flags.ts';
import { build, info, template } from '../guest_build.ts';
import { follow, logs } from '../guest_console.ts';
import { execInGuest } from '../guest_exec.ts';
import type { Session } from '../session.ts';

const verbs: Readonly<Record<string, (session: Session, args: Arguments) => Promise<number>>> = {
  build,
  info,
  template,
  logs,
  console: follow,
  exec: execInGuest,
};
/** What is behind the verb: nothing, a pod, or a pod and more. */
const operands: Readonly<Record<string, number>> = { logs: 2, console: 2, exec: Infinity };

export const guest: Command = {
  operands: 'build | info | template | logs <pod> | console <pod> | exec <pod> [--] <command> [argument...]',
  count: [1, Infinity],
  flags: [
    { name: 'out', kind: 'string', usage: 'the guest cache (default: [vm] cache of the configuration)' },
    { name: 'kernel', kind: 'string', usage: 'build: take this bzImage or vmlinux instead of building one' },
    { name: 'modules', kind: 'string', usage: 'build: its modules (default: /lib/modules/RELEASE)' },
    {
      name: 'source',
      kind: 'string',
      usage: 'build: tarball of a kernel’s source (default: Debian’s package)',
    },
    { name: 'config', kind: 'string', usage: 'build: configuration fragment (default: the one delivered)' },
    {
      name: 'jobs',
      alias: 'j',
      kind: 'number',
      usage: 'build: compilers at once (default: one a processor)',
    },
    { name: 'json', kind: 'boolean', usage: 'info: as JSON' },
    { name: 'tty', alias: 't', kind: 'boolean', usage: 'exec: with a terminal' },
    { name: 'env', alias: 'e', kind: 'list', usage: 'exec: NAME=value, added to the environment' },
    { name: 'cwd', kind: 'string', usage: 'exec: working directory in the guest (default: /)' },
    {
      name: 'program',
      kind: 'string',
      usage: 'exec: static program of the host whose command it is (default: /bin/busybox)',
    },
    { name: 'lines', alias: 'n', kind: 'number', usage: 'logs, console: the last ones only' },
  ],
  async run(session, args) {
    const [name = ''] = args.operands;
    const verb = Object.hasOwn(verbs, name) ? verbs[name] : undefined;
    if (verb === undefined) throw usageError('guest', `no such command: ${name}`);
    const most = operands[name] ?? 1;
    if (args.operands.length > most)
      throw usageError('guest', `${name} takes no argument: ${args.operands[most] ?? ''}`);
    return verb(session, args);
  },
};
