import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { addon } from '../../native/index.ts';
import { explainCall, similarCalls } from '../../sandbox/sentry/explain.ts';
import {
  callRows,
  countsTable,
  prometheusText,
  refusalText,
  traceLine,
} from '../../sandbox/sentry/report.ts';
import { socketDirectory, supervisorSocket } from '../../sandbox/sentry/socket.ts';
import { decodeSocketLog, socketRefusalText } from '../../sandbox/sentry/socket_log.ts';
import type { SocketRefusal } from '../../sandbox/sentry/socket_log.ts';
import { followDecisions, readCounts } from '../../sandbox/sentry/watch.ts';
import type { Counts } from '../../sandbox/sentry/watch.ts';
import { StateStore } from '../../state/index.ts';
import type { Command } from '../command.ts';
import type { Arguments } from '../flags.ts';
import { usageError } from '../flags.ts';
import type { Session } from '../session.ts';

/** The engine's state root; containerd's containers are there. */
const DEFAULT_ENGINE_ROOT = '/run/bulkhead';

interface Sandbox {
  namespace: string;
  /** Its cgroups, on every hierarchy. */
  cgroups: readonly string[];
  id: string;
  socket: string;
}

const actions: Readonly<Record<string, (session: Session, args: Arguments) => Promise<number>>> = {
  trace,
  stats,
  explain,
};

export const sentry: Command = {
  operands: 'trace <container-id> | stats [container-id] | explain <system-call>',
  count: [1, 2],
  flags: [
    {
      name: 'namespace',
      alias: 'n',
      kind: 'string',
      usage:
        'containerd namespace of the container; "cli" for those of this command (default: wherever it is)',
    },
    {
      name: 'format',
      alias: 'f',
      kind: 'string',
      usage: 'of stats: table, json or prometheus (default: table)',
    },
  ],
  async run(session, args) {
    const action = actions[args.operands[0] ?? ''];
    if (action === undefined) throw usageError('sentry', `no such action: ${args.operands[0]}`);
    return await action(session, args);
  },
};

/** Prints every decision of the container's supervisor until the container or this command ends. */
async function trace(session: Session, args: Arguments): Promise<number> {
  const sandbox = oneSandbox(session, args, 'sentry trace');
  const stream = followDecisions(sandbox.socket, (record) => session.print(traceLine(record)));
  process.once('SIGINT', () => stream.close());
  process.once('SIGTERM', () => stream.close());
  await stream.ended.catch((error: unknown) => {
    throw unreachable('sentry trace', sandbox, error);
  });
  return 0;
}

async function stats(session: Session, args: Arguments): Promise<number> {
  const format = args.string('format') ?? 'table';
  if (!['table', 'json', 'prometheus'].includes(format))
    throw usageError('sentry', `unknown format ${JSON.stringify(format)}`);
  const counted = await countsOf(session, args);
  if (format === 'prometheus') session.print(prometheusText(counted));
  else if (format === 'json') session.print(`${JSON.stringify(counted.map(asJson))}\n`);
  else {
    const tables = counted.map((one) => {
      const title = args.operands[1] === undefined ? `${one.namespace}/${one.id}\n` : '';
      return title + countsTable(one.counts) + socketTable(socketRefusals(one));
    });
    session.print(tables.join('\n'));
  }
  return 0;
}

/** Of one container, or of all that run: one that ends meanwhile is left out. */
async function countsOf(session: Session, args: Arguments): Promise<(Sandbox & { counts: Counts })[]> {
  if (args.operands[1] !== undefined) {
    const sandbox = oneSandbox(session, args, 'sentry stats');
    const counts = await readCounts(sandbox.socket).catch((error: unknown) => {
      throw unreachable('sentry stats', sandbox, error);
    });
    return [{ ...sandbox, counts }];
  }
  const asked = sandboxes(session, args).map(async (sandbox) => {
    const counts = await readCounts(sandbox.socket).catch(() => undefined);
    return counts === undefined ? [] : [{ ...sandbox, counts }];
  });
  return (await Promise.all(asked)).flat();
}

/** What rules for sockets have refused, or would have. */
function socketRefusals({ cgroups }: Sandbox): SocketRefusal[] {
  const unified = cgroups.find((path) => existsSync(join(path, 'cgroup.controllers')));
  return unified === undefined ? [] : decodeSocketLog(addon().readSocketLog(unified));
}

function socketTable(refusals: readonly SocketRefusal[]): string {
  if (refusals.length === 0) return '';
  const lines = refusals.map((refusal) => `${socketRefusalText(refusal)}  ${refusal.count}\n`);
  return ['\nAGAINST THE RULES FOR SOCKETS\n', ...lines].join('');
}

function asJson(sandbox: Sandbox & { counts: Counts }): unknown {
  const { namespace, id, counts } = sandbox;
  const refusals = counts.refusals.map((refusal) => ({
    call: refusalText(refusal),
    count: refusal.count,
    last: new Date(Number(refusal.lastNs / 1_000_000n)).toISOString(),
  }));
  const sockets = socketRefusals(sandbox);
  return { namespace, id, calls: callRows(counts), refusals, moreRefusals: counts.moreRefusals, sockets };
}

async function explain(session: Session, args: Arguments): Promise<number> {
  const name = args.operands[1];
  if (name === undefined) throw usageError('sentry', 'explain needs the name or number of a system call');
  const text = explainCall(name);
  if (text !== undefined) {
    session.print(text);
    return 0;
  }
  const similar = similarCalls(name);
  throw new RuntimeError({
    code: ErrorCode.NotFound,
    op: 'sentry explain',
    object: JSON.stringify(name),
    reason: 'x86-64 has no such system call',
    remedy: similar.length === 0 ? undefined : `did you mean ${similar.join(', ')}?`,
  });
}

/** Containers behind the sentry wall: this command's, and those of the engine. */
function sandboxes(session: Session, args: Arguments): Sandbox[] {
  const wanted = args.string('namespace');
  const engineRoot = session.env['BULKHEAD_ROOT'] || DEFAULT_ENGINE_ROOT;
  const roots = [...new Set([session.store.paths.root, engineRoot, join(engineRoot, 'cli')])];
  return roots.flatMap((root) =>
    new StateStore(root)
      .list(wanted, (error) => session.log.warning(error.message))
      .filter((record) => record.wall === 'sentry')
      .map(({ namespace, id, cgroupPaths }) => {
        const names = { namespace: namespace ?? '', id: id ?? '', cgroups: cgroupPaths ?? [] };
        return { ...names, socket: supervisorSocket(socketDirectory(root), names.namespace, names.id) };
      }),
  );
}

/** NotFound, or InvalidArgument when the id is in several namespaces. */
function oneSandbox(session: Session, args: Arguments, op: string): Sandbox {
  const id = args.operands[1];
  if (id === undefined) throw usageError('sentry', `${op.slice('sentry '.length)} needs a container id`);
  const found = sandboxes(session, args).filter((sandbox) => sandbox.id === id);
  const [only, other] = found;
  if (only !== undefined && other === undefined) return only;
  throw new RuntimeError({
    code: only === undefined ? ErrorCode.NotFound : ErrorCode.InvalidArgument,
    op,
    id,
    reason:
      only === undefined
        ? 'no container behind the sentry wall has this id'
        : `is in the namespaces ${found.map(({ namespace }) => namespace).join(', ')}`,
    remedy: only === undefined ? undefined : 'use --namespace',
  });
}

function unreachable(op: string, { id }: Sandbox, cause: unknown): RuntimeError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const ended = code === 'ENOENT' || code === 'ECONNREFUSED';
  const reason = ended ? 'has no supervisor any more: it has ended' : `the supervisor: ${message}`;
  return new RuntimeError({ code: ErrorCode.FailedPrecondition, op, id, reason, cause });
}
