/**
 * Flags as runc takes them, which are Go's: `--name value`, `--name=value`, the same with one dash, a boolean without
 * a value or `--name=false`, `--` ends them. Parsers on npm follow getopt (`-bundle` would be seven flags), so a
 * script written for runc would break on them.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';

export interface Flag {
  name: string;
  alias?: string;
  kind: 'boolean' | 'string' | 'number' | 'list';
  usage: string;
}

/** What was given: flags by their long name, and the words that are none. */
export class Arguments {
  readonly operands: readonly string[];
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(operands: readonly string[], values: ReadonlyMap<string, readonly string[]>) {
    this.operands = operands;
    this.#values = values;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  boolean(name: string): boolean {
    return this.string(name) === 'true';
  }

  /** The last value given. */
  string(name: string): string | undefined {
    return this.#values.get(name)?.at(-1);
  }

  number(name: string): number | undefined {
    const text = this.string(name);
    return text === undefined ? undefined : Number(text);
  }

  /** Every value given, in order. */
  list(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }
}

/** A wrong command line: one sentence and where to read more. */
export function usageError(verb: string, reason: string): RuntimeError {
  const remedy = verb === 'bulkhead' ? 'see bulkhead --help' : `see bulkhead ${verb} --help`;
  return new RuntimeError({ code: ErrorCode.InvalidArgument, op: verb, reason, remedy });
}

export interface ParseRules {
  /** Named in errors. */
  verb: string;
  flags: readonly Flag[];
  /** Flags end at the first operand: what follows belongs to another program. */
  flagsFirst: boolean;
}

/** InvalidArgument for an unknown flag, a missing value or a value of the wrong kind. */
export function parseArguments(words: readonly string[], rules: ParseRules): Arguments {
  const operands: string[] = [];
  const values = new Map<string, string[]>();
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? '';
    if (word === '--') {
      operands.push(...words.slice(i + 1));
      break;
    }
    if (!/^--?[^-]/.test(word)) {
      if (rules.flagsFirst) {
        operands.push(...words.slice(i));
        break;
      }
      operands.push(word);
      continue;
    }
    const { flag, inline } = splitWord(word, rules);
    let value = inline;
    if (value === undefined) value = flag.kind === 'boolean' ? 'true' : words[++i];
    if (value === undefined) throw usageError(rules.verb, `flag needs an argument: --${flag.name}`);
    const given = values.get(flag.name) ?? [];
    values.set(flag.name, [...given, checkedValue(flag, value, rules.verb)]);
  }
  return new Arguments(operands, values);
}

function splitWord(word: string, { verb, flags }: ParseRules): { flag: Flag; inline: string | undefined } {
  const text = word.replace(/^--?/, '');
  const equals = text.indexOf('=');
  const name = equals < 0 ? text : text.slice(0, equals);
  const flag = flags.find((known) => known.name === name || known.alias === name);
  if (flag === undefined) throw usageError(verb, `flag provided but not defined: ${word.split('=')[0]}`);
  return { flag, inline: equals < 0 ? undefined : text.slice(equals + 1) };
}

/** Go's strconv.ParseBool. */
const booleans: Readonly<Record<string, string>> = {
  ...Object.fromEntries(['1', 't', 'T', 'true', 'TRUE', 'True'].map((text) => [text, 'true'])),
  ...Object.fromEntries(['0', 'f', 'F', 'false', 'FALSE', 'False'].map((text) => [text, 'false'])),
};

function checkedValue(flag: Flag, value: string, verb: string): string {
  if (flag.kind === 'boolean') {
    const canonical = Object.hasOwn(booleans, value) ? booleans[value] : undefined;
    if (canonical !== undefined) return canonical;
    throw usageError(verb, `flag --${flag.name}: ${JSON.stringify(value)} is neither true nor false`);
  }
  if (flag.kind === 'number' && !/^-?\d{1,15}$/.test(value)) {
    throw usageError(verb, `flag --${flag.name}: ${JSON.stringify(value)} is not a whole number`);
  }
  return value;
}
