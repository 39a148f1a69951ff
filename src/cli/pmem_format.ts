/** `bulkhead devices pmem format PATH`: makes a file or device-DAX what a guest takes for an NVDIMM. */
// eslint-disable-next-line no-restricted-imports -- mke2fs for the command line: no container and no engine is near
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { hostTree } from '../devices/host_tree.ts';
import { formatSize } from '../devices/model.ts';
import { formatPmem, type FormatRequest } from '../devices/pmem/format.ts';
import { addon } from '../native/index.ts';
import type { Arguments, Flag } from './flags.ts';
import { usageError } from './flags.ts';
import type { Session } from './session.ts';

export const pmemFlags: readonly Flag[] = [
  { name: 'mode', kind: 'string', usage: 'pmem format: fsdax (default) or devdax, as the guest has it' },
  { name: 'size', kind: 'string', usage: 'pmem format: of a file: bytes, or with K, M, G or T' },
  { name: 'fstype', kind: 'string', usage: 'pmem format: ext4 (default) or none' },
  { name: 'force', kind: 'boolean', usage: 'pmem format: erase what is there' },
];

const SUFFIXES = ['', 'K', 'M', 'G', 'T'];

export function pmemFormat(session: Session, args: Arguments): number {
  const [, , given, ...more] = args.operands;
  if (given === undefined || more.length > 0) throw usageError('devices', 'pmem format takes one path');
  const path = resolve(session.cwd, given);
  const { size } = formatPmem(
    {
      path,
      mode: choice(args, 'mode', ['fsdax', 'devdax']),
      size: sizeOf(args),
      fstype: choice(args, 'fstype', ['ext4', 'none']),
      force: args.boolean('force'),
    } satisfies FormatRequest,
    {
      host: hostTree(),
      readMapped: (...place) => addon().readMapped(...place),
      writeMapped: (...place) => addon().writeMapped(...place),
      mke2fs: (words) => void execFileSync('mke2fs', words, { stdio: ['ignore', 'ignore', 'pipe'] }),
      uuid: () => randomBytes(16),
    },
  );
  session.print(`${path}: ${formatSize(size)}\n`);
  return 0;
}

/** One of the words; the first is the default. */
function choice<T extends string>(args: Arguments, flag: string, words: readonly [T, ...T[]]): T {
  const given = args.string(flag);
  const word = given === undefined ? words[0] : words.find((each) => each === given);
  if (word === undefined)
    throw usageError('devices', `--${flag} ${given ?? ''}: not one of ${words.join(', ')}`);
  return word;
}

function sizeOf(args: Arguments): number | undefined {
  const text = args.string('size');
  if (text === undefined) return undefined;
  const [, digits, suffix = ''] = /^(\d{1,15})([KMGT]?)$/.exec(text) ?? [];
  if (digits === undefined) throw usageError('devices', `--size ${text}: not a size such as 64M`);
  return Number(digits) * 1024 ** SUFFIXES.indexOf(suffix);
}
