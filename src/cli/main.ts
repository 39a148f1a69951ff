/**
 * bulkhead, the command line. Compatible with runc's: flags, exit statuses, state, lists, log lines. Each verb is loaded
 * when it is asked for, since every invocation pays for what is loaded.
 */
import { VERSION } from '../base/version.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Command } from './command.ts';
import { checkCount } from './command.ts';
import { parseArguments, usageError } from './flags.ts';
import { globalFlags, readGlobals } from './globals.ts';
import type { Globals } from './globals.ts';
import { commandHelp, generalHelp } from './help.ts';
import { writeAll } from './output.ts';
import { Session } from './session.ts';

interface Verb {
  summary: string;
  load: () => Promise<Command>;
}

const verbs: ReadonlyMap<string, Verb> = new Map<string, Verb>([
  [
    'create',
    { summary: 'create a container', load: async () => (await import('./commands/create.ts')).create },
  ],
  [
    'delete',
    { summary: 'remove a container', load: async () => (await import('./commands/delete.ts')).deleteCommand },
  ],
  [
    'devices',
    {
      summary: 'what this node can pass to which wall, and why not',
      load: async () => (await import('./commands/devices.ts')).devices,
    },
  ],
  [
    'events',
    {
      summary: 'print statistics and memory events of a container, as JSON lines',
      load: async () => (await import('./commands/events.ts')).events,
    },
  ],
  [
    'exec',
    {
      summary: 'run a further process in a container',
      load: async () => (await import('./commands/exec.ts')).exec,
    },
  ],
  [
    'features',
    {
      summary: 'print what this runtime can do, as JSON',
      load: async () => (await import('./commands/features.ts')).features,
    },
  ],
  [
    'kill',
    {
      summary: 'send a signal to a container (default: SIGTERM)',
      load: async () => (await import('./commands/kill.ts')).kill,
    },
  ],
  [
    'list',
    {
      summary: 'list the containers of a state root',
      load: async () => (await import('./commands/list.ts')).list,
    },
  ],
  [
    'pause',
    {
      summary: 'freeze all processes of a container',
      load: async () => (await import('./commands/pause.ts')).pause,
    },
  ],
  [
    'plan',
    {
      summary: 'print what create would do, step by step',
      load: async () => (await import('./commands/plan.ts')).plan,
    },
  ],
  [
    'ps',
    { summary: 'list the processes of a container', load: async () => (await import('./commands/ps.ts')).ps },
  ],
  [
    'resume',
    { summary: 'thaw a paused container', load: async () => (await import('./commands/resume.ts')).resume },
  ],
  [
    'run',
    { summary: 'create and start a container', load: async () => (await import('./commands/run.ts')).run },
  ],
  [
    'sentry',
    {
      summary: 'what supervisors decide: trace, stats, explain',
      load: async () => (await import('./commands/sentry.ts')).sentry,
    },
  ],
  [
    'spec',
    {
      summary: 'write a config.json to start from',
      load: async () => (await import('./commands/spec.ts')).spec,
    },
  ],
  [
    'start',
    {
      summary: 'run the command of a created container',
      load: async () => (await import('./commands/start.ts')).start,
    },
  ],
  [
    'state',
    {
      summary: 'print the state of a container, as JSON',
      load: async () => (await import('./commands/state.ts')).state,
    },
  ],
  [
    'update',
    {
      summary: 'change the resource limits of a container',
      load: async () => (await import('./commands/update.ts')).update,
    },
  ],
]);

async function main(words: string[]): Promise<number> {
  let globals: Globals | undefined;
  let name = 'bulkhead';
  try {
    const top = parseArguments(words, { verb: name, flags: globalFlags, flagsFirst: true });
    const [verb, ...rest] = top.operands;
    if (top.boolean('version')) return print(`bulkhead version ${VERSION}\nspec: 1.3.0\n`);
    if (verb === undefined || top.boolean('help') || verb === 'help') return print(generalHelp(verbs));
    globals = readGlobals(top, process.env, process.geteuid?.() ?? 0);
    const { summary, load } = findVerb(verb);
    name = verb;
    const command = await load();
    if (rest[0] === '--help' || rest[0] === '-h') return print(commandHelp(verb, summary, command));
    const args = parseArguments(rest, {
      verb,
      flags: command.flags,
      flagsFirst: command.flagsFirst ?? false,
    });
    checkCount(verb, command, args);
    const around = { env: process.env, cwd: process.cwd(), uid: process.geteuid?.() ?? 0, pid: process.pid };
    return await command.run(new Session(globals, around), args);
  } catch (error) {
    const { reportFailure } = await import('./failure.ts');
    return reportFailure(error, name, globals);
  }
}

function findVerb(name: string): Verb {
  const verb = verbs.get(name);
  if (verb !== undefined) return verb;
  if (name === 'checkpoint' || name === 'restore') {
    throw new RuntimeError({
      code: ErrorCode.Unimplemented,
      op: name,
      reason: 'not supported by this version',
    });
  }
  throw usageError('bulkhead', `no such command: ${name}`);
}

function print(text: string): number {
  writeAll(1, text);
  return 0;
}

void main(process.argv.slice(2)).then((status) => process.exit(status));
