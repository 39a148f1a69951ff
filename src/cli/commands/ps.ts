import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { compileHelper } from '../../plan/helper.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { Container } from '../../runtime/container.ts';
import type { Command } from '../command.ts';
import { exitOf } from '../create_flow.ts';
import { usageError } from '../flags.ts';
import { loadContainer, runtimeContext } from '../load.ts';
import type { LocalExecutor } from '../local_executor.ts';
import type { Session } from '../session.ts';

const PS = '/bin/ps';

export const ps: Command = {
  operands: '<container-id> [ps options]',
  count: [1, Infinity],
  flagsFirst: true,
  flags: [{ name: 'format', alias: 'f', kind: 'string', usage: 'table or json: pids only (default: table)' }],
  async run(session, args) {
    const [id = '', ...options] = args.operands;
    const format = args.string('format') ?? 'table';
    if (format !== 'table' && format !== 'json')
      throw usageError('ps', `unknown format ${JSON.stringify(format)}`);
    const container = loadContainer(session, runtimeContext(session), 'ps', id);
    const pids = await container.backend.pids(container.record, container.executor);
    if (format === 'json') {
      session.print(`${JSON.stringify(pids)}\n`);
      return 0;
    }
    const listing = await runPs(session, container, options.length === 0 ? ['-ef'] : options);
    session.print(onlyPids(id, listing, new Set(pids)));
    return 0;
  },
};

/** What the host's ps prints. It is launched by a plan like everything that runs. */
async function runPs(session: Session, container: Container, options: string[]): Promise<string> {
  const executor = container.executor as LocalExecutor;
  const { id } = container;
  const key = `${id}/ps`;
  const directory = mkdtempSync(join(tmpdir(), 'bulkhead-ps-'));
  try {
    const stdio = {
      stdin: '',
      stdout: join(directory, 'out'),
      stderr: join(directory, 'err'),
      terminal: false,
    };
    const env = Object.entries(session.env).map(([name, value]) => `${name}=${value ?? ''}`);
    const plan = encodePlan(compileHelper({ id: key, path: PS, args: ['ps', ...options], env }));
    const exit = exitOf(executor, key);
    await executor.launch(key, plan, stdio).catch((cause: unknown) => {
      throw new RuntimeError({
        code: ErrorCode.FailedPrecondition,
        op: 'ps',
        id,
        object: PS,
        reason: 'cannot be run',
        remedy: 'install procps, or use --format json',
        cause,
      });
    });
    const { waitStatus } = await exit;
    if (waitStatus === 0) return readFileSync(stdio.stdout, 'utf8');
    const reason = readFileSync(stdio.stderr, 'utf8').trim().split('\n')[0] ?? '';
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'ps',
      id,
      object: `ps ${options.join(' ')}`,
      reason,
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The heading, and the lines whose PID column is one of `pids`. */
function onlyPids(id: string, listing: string, pids: ReadonlySet<number>): string {
  const [heading = '', ...lines] = listing.trimEnd().split('\n');
  const column = heading.trim().split(/\s+/).indexOf('PID');
  if (column < 0) {
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'ps',
      id,
      reason: 'couldn’t find PID field in ps output',
      remedy: 'choose options that print it',
    });
  }
  const kept = lines.filter((line) => pids.has(Number(line.trim().split(/\s+/)[column])));
  return [heading, ...kept].map((line) => `${line}\n`).join('');
}
