/** The flags before the verb, as runc has them, and what they default to. */
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Format } from '../base/log.ts';
import type { Arguments, Flag } from './flags.ts';
import { usageError } from './flags.ts';

export const globalFlags: readonly Flag[] = [
  { name: 'debug', kind: 'boolean', usage: 'log what is done' },
  { name: 'log', kind: 'string', usage: 'file that log lines and errors go to (default: standard error)' },
  { name: 'log-format', kind: 'string', usage: 'text or json (default: text)' },
  { name: 'root', kind: 'string', usage: 'directory of the containers’ state (should be a tmpfs)' },
  { name: 'systemd-cgroup', kind: 'boolean', usage: 'systemd cgroup driver (not in this version)' },
  {
    name: 'rootless',
    kind: 'string',
    usage: 'true, false or auto: the state root of an unprivileged user (default: auto)',
  },
  { name: 'criu', kind: 'string', usage: 'accepted for runc’s sake, without effect' },
  {
    name: 'wall',
    kind: 'string',
    usage: 'the wall of containers that are created: namespace or sentry',
  },
  { name: 'help', alias: 'h', kind: 'boolean', usage: 'show help' },
  { name: 'version', alias: 'v', kind: 'boolean', usage: 'print the version' },
];

export interface Globals {
  root: string;
  log: string | undefined;
  logFormat: Format;
  debug: boolean;
  /** As given; a verb that creates checks it. */
  wall: string | undefined;
}

/** InvalidArgument for a bad value; Unimplemented for the systemd driver. */
export function readGlobals(args: Arguments, env: NodeJS.ProcessEnv, uid: number): Globals {
  const logFormat = args.string('log-format') ?? 'text';
  if (logFormat !== 'text' && logFormat !== 'json') {
    throw usageError('bulkhead', `flag --log-format: ${JSON.stringify(logFormat)} is neither text nor json`);
  }
  if (args.boolean('systemd-cgroup')) {
    throw new RuntimeError({
      code: ErrorCode.Unimplemented,
      op: 'bulkhead',
      object: '--systemd-cgroup',
      reason: 'the systemd cgroup driver is not in this version',
      remedy: 'leave the flag out to use cgroupfs',
    });
  }
  return {
    root: args.string('root') ?? defaultRoot(isRootless(args, uid), env),
    log: args.string('log') === '' ? undefined : args.string('log'),
    logFormat,
    debug: args.boolean('debug'),
    wall: args.string('wall'),
  };
}

function isRootless(args: Arguments, uid: number): boolean {
  const rootless = args.string('rootless') ?? 'auto';
  if (!['auto', 'true', 'false'].includes(rootless)) {
    throw usageError('bulkhead', `flag --rootless: ${JSON.stringify(rootless)} is none of true, false, auto`);
  }
  return rootless === 'auto' ? uid !== 0 : rootless === 'true';
}

/**
 * Where the command line keeps its containers: apart from the engine's, which belong to monitors. BULKHEAD_ROOT/cli,
 * for root /run/bulkhead/cli, for a user XDG_RUNTIME_DIR/bulkhead/cli.
 */
function defaultRoot(rootless: boolean, env: NodeJS.ProcessEnv): string {
  if (env['BULKHEAD_ROOT']) return join(env['BULKHEAD_ROOT'], 'cli');
  const runtimeDir = env['XDG_RUNTIME_DIR'];
  return rootless && runtimeDir ? join(runtimeDir, 'bulkhead', 'cli') : '/run/bulkhead/cli';
}
