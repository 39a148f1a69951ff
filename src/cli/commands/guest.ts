/** `bulkhead guest`: the kernel and the initial file system that virtual machines boot. */
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { buildKernel, findGuest, GuestCache, importKernel, kernelFragment } from '../../guest/index.ts';
import type { KernelInfo } from '../../guest/index.ts';
import type { Command } from '../command.ts';
import type { Arguments } from '../flags.ts';
import { usageError } from '../flags.ts';
import type { Session } from '../session.ts';
import { readVmConfig } from '../vm_config.ts';

type Verb = (session: Session, args: Arguments) => Promise<number>;

const verbs: Readonly<Record<string, Verb>> = { build, info };

export const guest: Command = {
  operands: 'build|info',
  count: [1, 1],
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
  ],
  async run(session, args) {
    const name = args.operands[0] ?? '';
    const verb = Object.hasOwn(verbs, name) ? verbs[name] : undefined;
    if (verb === undefined) throw usageError('guest', `no such command: ${name}`);
    return verb(session, args);
  },
};

async function cacheOf(session: Session, args: Arguments): Promise<GuestCache> {
  const out = args.string('out');
  return new GuestCache(
    out === undefined ? (await readVmConfig(session.env)).cache : resolve(session.cwd, out),
  );
}

async function build(session: Session, args: Arguments): Promise<number> {
  const cache = await cacheOf(session, args);
  const info = await makeKernel(session, args, cache);
  cache.select(info.key);
  const made = findGuest({ cache: cache.dir }, 'guest build');
  session.print(`kernel=${made.kernel}\ninitrd=${made.initrd}\n`);
  return 0;
}

function makeKernel(session: Session, args: Arguments, cache: GuestCache): Promise<KernelInfo> {
  const path = (flag: string): string | undefined => {
    const given = args.string(flag);
    return given === undefined ? undefined : resolve(session.cwd, given);
  };
  const say = (text: string): void => session.log.info(text);
  const kernel = path('kernel');
  const [forImport, forBuild] = [['modules'], ['source', 'config', 'jobs']];
  for (const flag of kernel === undefined ? forImport : forBuild) {
    if (!args.has(flag)) continue;
    const rule = kernel === undefined ? 'needs --kernel' : 'builds a kernel: leave --kernel out';
    throw usageError('guest', `--${flag} ${rule}`);
  }
  if (kernel !== undefined) return importKernel({ cache, kernel, modules: path('modules'), say });
  const jobs = args.number('jobs') ?? availableParallelism();
  if (!Number.isInteger(jobs) || jobs < 1) throw usageError('guest', 'flag --jobs: not a count');
  const config = path('config') ?? kernelFragment();
  return buildKernel({ cache, config, source: path('source'), jobs, env: session.env, say });
}

async function info(session: Session, args: Arguments): Promise<number> {
  const cache = await cacheOf(session, args);
  const found = findGuest({ cache: cache.dir }, 'guest info');
  const lines = Object.entries(found).map(([name, value]) => `${name}=${value}\n`);
  session.print(args.boolean('json') ? `${JSON.stringify(found, null, 2)}\n` : lines.join(''));
  return 0;
}
