/** `bulkhead guest build|info|template`: what virtual machines boot, made before they need it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { buildKernel, findGuest, GuestCache, importKernel, kernelFragment } from '../guest/index.ts';
import type { KernelInfo } from '../guest/index.ts';
import { vmHost } from '../sandbox/vm/host.ts';
import type { Arguments } from './flags.ts';
import { usageError } from './flags.ts';
import type { Session } from './session.ts';
import { readVmConfig } from './vm_config.ts';

/** Builds or takes a kernel, makes it the one in use, and an initrd for it. */
export async function build(session: Session, args: Arguments): Promise<number> {
  const cache = await cacheOf(session, args);
  const made = await makeKernel(session, args, cache);
  cache.select(made.key);
  const { kernel, initrd } = findGuest({ cache: cache.dir }, 'guest build');
  session.print(`kernel=${kernel}\ninitrd=${initrd}\n`);
  return 0;
}

/** What the next virtual machine would boot. */
export async function info(session: Session, args: Arguments): Promise<number> {
  const cache = await cacheOf(session, args);
  const found = findGuest({ cache: cache.dir }, 'guest info');
  const lines = Object.entries(found).map(([name, value]) => `${name}=${value}\n`);
  session.print(args.boolean('json') ? `${JSON.stringify(found, null, 2)}\n` : lines.join(''));
  return 0;
}

/** Boots the machine that pods are cloned from, unless it is there already, and saves it. */
export async function template(session: Session, args: Arguments): Promise<number> {
  const config = await readVmConfig(session.env);
  const cache = args.string('out');
  if (cache !== undefined) config.cache = resolve(session.cwd, cache);
  const fail = (reason: string, remedy?: string): RuntimeError =>
    new RuntimeError({ code: ErrorCode.FailedPrecondition, op: 'guest template', reason, remedy });
  if (!config.template) throw fail('[vm] template = false: pods boot', 'leave it out to clone them');
  const dir = mkdtempSync(join(tmpdir(), 'bulkhead-guest-'));
  try {
    const pod = { namespace: 'guest', group: 'template', dir, functions: [], share: true };
    const { machineConfig } = vmHost(config, dir, session.log).sandbox;
    const { machine } = await machineConfig('template', { ociVersion: '1.2.0' }, pod);
    if (machine.template === undefined) {
      throw fail('none was made: the log says why', `q35 has templates; the machine is ${machine.type}`);
    }
    session.print(`template=${dirname(machine.template.memory)}\n`);
    return 0;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function cacheOf(session: Session, args: Arguments): Promise<GuestCache> {
  const out = args.string('out');
  return new GuestCache(
    out === undefined ? (await readVmConfig(session.env)).cache : resolve(session.cwd, out),
  );
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
    const rule = kernel === undefined ? 'needs --kernel' : 'is for building a kernel: leave --kernel out';
    throw usageError('guest', `--${flag} ${rule}`);
  }
  if (kernel !== undefined) return importKernel({ cache, kernel, modules: path('modules'), say });
  const jobs = args.number('jobs') ?? availableParallelism();
  if (!Number.isInteger(jobs) || jobs < 1) throw usageError('guest', 'flag --jobs: not a count');
  const config = path('config') ?? kernelFragment();
  return buildKernel({ cache, config, source: path('source'), jobs, env: session.env, say });
}
