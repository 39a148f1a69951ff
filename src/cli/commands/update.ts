import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { LinuxCPU, LinuxMemory, LinuxResources } from '../../oci/types.ts';
import { parseResources } from '../../oci/validate/index.ts';
import { updateContainer } from '../../runtime/update.ts';
import type { Command } from '../command.ts';
import type { Arguments, Flag } from '../flags.ts';
import { usageError } from '../flags.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';

/** Numbers of one flag each: its name, where it goes, what it is. */
const cpuNumbers: Readonly<Record<string, [keyof LinuxCPU, string]>> = {
  'cpu-period': ['period', 'CFS period in microseconds'],
  'cpu-quota': ['quota', 'CFS time in a period, in microseconds'],
  'cpu-burst': ['burst', 'CFS time that may be saved up, in microseconds'],
  'cpu-share': ['shares', 'weight beside other containers'],
  'cpu-rt-period': ['realtimePeriod', 'realtime period in microseconds'],
  'cpu-rt-runtime': ['realtimeRuntime', 'realtime time in a period, in microseconds'],
  'cpu-idle': ['idle', '1: run only when nobody else wants to'],
};
const memorySizes: Readonly<Record<string, [keyof LinuxMemory, string]>> = {
  memory: ['limit', 'memory limit, bytes or with a unit: 512M'],
  'memory-reservation': ['reservation', 'memory kept from reclaim, or soft limit'],
  'memory-swap': ['swap', 'limit of memory and swap together; -1: none'],
};

const flags: readonly Flag[] = [
  {
    name: 'resources',
    alias: 'r',
    kind: 'string',
    usage: 'file with an OCI resources object, or - for standard input',
  },
  { name: 'blkio-weight', kind: 'number', usage: 'weight of block I/O, 10 to 1000' },
  ...Object.entries(cpuNumbers).map(([name, [, usage]]): Flag => ({ name, kind: 'number', usage })),
  { name: 'cpuset-cpus', kind: 'string', usage: 'processors to run on: 0-2,5' },
  { name: 'cpuset-mems', kind: 'string', usage: 'memory nodes to use' },
  ...Object.entries(memorySizes).map(([name, [, usage]]): Flag => ({ name, kind: 'string', usage })),
  { name: 'pids-limit', kind: 'number', usage: 'most processes' },
];

export const update: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags,
  async run(session, args) {
    const id = args.operands[0] ?? '';
    const file = args.string('resources');
    const resources = file === undefined ? fromFlags(args) : fromFile(id, file, session.cwd);
    using _lock = lockContainer(session, id);
    await updateContainer(loadContainer(session, runtimeContext(session), 'update', id), resources);
    return 0;
  },
};

function fromFile(id: string, file: string, cwd: string): LinuxResources {
  const path = file === '-' ? '/dev/stdin' : resolve(cwd, file);
  let text: string;
  try {
    text = file === '-' ? readFileSync(0, 'utf8') : readFileSync(path, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'update',
      id,
      object: path,
      reason: message,
      path,
      errno: code,
      cause: error,
    });
  }
  return parseResources(text, id);
}

function fromFlags(args: Arguments): LinuxResources {
  const cpu: Record<string, number | string> = {};
  for (const [flag, [field]] of Object.entries(cpuNumbers)) {
    const value = args.number(flag);
    if (value !== undefined) cpu[field] = value;
  }
  for (const [flag, field] of [['cpuset-cpus', 'cpus'] as const, ['cpuset-mems', 'mems'] as const]) {
    const value = args.string(flag);
    if (value !== undefined) cpu[field] = value;
  }
  const memory: Record<string, number> = {};
  for (const [flag, [field]] of Object.entries(memorySizes)) {
    const value = args.string(flag);
    if (value !== undefined) memory[field] = bytes(flag, value);
  }
  const pids = args.number('pids-limit');
  const weight = args.number('blkio-weight');
  return {
    ...(Object.keys(cpu).length > 0 ? { cpu: cpu } : {}),
    ...(Object.keys(memory).length > 0 ? { memory: memory } : {}),
    ...(pids === undefined ? {} : { pids: { limit: pids } }),
    ...(weight === undefined ? {} : { blockIO: { weight } }),
  };
}

const units = ['', 'k', 'm', 'g', 't', 'p'];

/** "512M" is 512 * 1024 * 1024; "-1" no limit. */
function bytes(flag: string, text: string): number {
  if (text === '-1') return -1;
  const match = /^(\d+(?:\.\d+)?)([kmgtp]?)(?:i?b)?$/i.exec(text);
  if (match === null) throw usageError('update', `flag --${flag}: ${JSON.stringify(text)} is not a size`);
  return Math.floor(Number(match[1]) * 1024 ** units.indexOf((match[2] ?? '').toLowerCase()));
}
