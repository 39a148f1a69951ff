/** Help texts, made from the tables that the parser reads. */
import type { Command } from './command.ts';
import type { Flag } from './flags.ts';
import { globalFlags } from './globals.ts';

const PAD = 30;

export function generalHelp(verbs: ReadonlyMap<string, { summary: string }>): string {
  const lines = [...verbs].map(([verb, { summary }]) => `   ${verb.padEnd(10)} ${summary}`);
  return `NAME:
   bulkhead - OCI runtime: containers behind namespaces

USAGE:
   bulkhead [global options] command [command options] [arguments...]

COMMANDS:
${lines.join('\n')}

GLOBAL OPTIONS:
${flagLines(globalFlags)}
`;
}

export function commandHelp(verb: string, summary: string, command: Command): string {
  const flags = command.flags.length === 0 ? '' : `\n\nOPTIONS:\n${flagLines(command.flags)}`;
  const usage = [
    'bulkhead',
    verb,
    ...(command.flags.length === 0 ? [] : ['[command options]']),
    command.operands,
  ];
  return `NAME:
   bulkhead ${verb} - ${summary}

USAGE:
   ${usage.join(' ').trimEnd()}${flags}
`;
}

function flagLines(flags: readonly Flag[]): string {
  return flags
    .map(({ name, alias, kind, usage }) => {
      const value = kind === 'boolean' ? '' : ' value';
      const names = [`--${name}${value}`, ...(alias === undefined ? [] : [`-${alias}${value}`])].join(', ');
      return `   ${names.padEnd(PAD)} ${usage}`;
    })
    .join('\n');
}
