/** `bulkhead guest`: the kernel and the initial file system that virtual machines boot, and what those say. */
import type { Command } from '../command.ts';
import type { Arguments } from '../flags.ts';
import { usageError } from '../flags.ts';
import { build, info, template } from '../guest_build.ts';
import { follow, logs } from '../guest_console.ts';
import type { Session } from '../session.ts';

const verbs: Readonly<Record<string, (session: Session, args: Arguments) => Promise<number>>> = {
  build,
  info,
  template,
  logs,
  console: follow,
};

export const guest: Command = {
  operands: 'build | info | template | logs <pod> | console <pod>',
  count: [1, 2],
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
    { name: 'lines', alias: 'n', kind: 'number', usage: 'logs, console: the last ones only' },
  ],
  async run(session, args) {
    const [name = '', operand] = args.operands;
    const verb = Object.hasOwn(verbs, name) ? verbs[name] : undefined;
    if (verb === undefined) throw usageError('guest', `no such command: ${name}`);
    const takesPod = verb === logs || verb === follow;
    if (operand !== undefined && !takesPod)
      throw usageError('guest', `${name} takes no argument: ${operand}`);
    return verb(session, args);
  },
};
