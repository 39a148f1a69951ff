import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { decodeMetrics } from '../../metrics/index.ts';
import { addon } from '../../native/index.ts';
import type { Container } from '../../runtime/container.ts';
import type { Command } from '../command.ts';
import { usageError } from '../flags.ts';
import { loadContainer, runtimeContext } from '../load.ts';
import type { Session } from '../session.ts';
import { statsJson } from '../stats.ts';

const DEFAULT_INTERVAL = '5s';

export const events: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [
    { name: 'interval', kind: 'string', usage: 'time between statistics: 500ms, 5s, 1m30s (default: 5s)' },
    { name: 'stats', kind: 'boolean', usage: 'print statistics once' },
  ],
  async run(session, args) {
    const id = args.operands[0] ?? '';
    const interval = milliseconds(args.string('interval') ?? DEFAULT_INTERVAL);
    const container = loadContainer(session, runtimeContext(session), 'events', id);
    if (container.init.isStopped) {
      throw new RuntimeError({
        code: ErrorCode.FailedPrecondition,
        op: 'events',
        id,
        reason: 'container is not running',
      });
    }
    if (args.boolean('stats')) printEvent(session, id, 'stats', await stats(container));
    else await follow(session, container, interval);
    return 0;
  },
};

/** Until the container ends. */
async function follow(session: Session, container: Container, interval: number): Promise<void> {
  const { id, backend, record, init, executor } = container;
  const stopWatch = backend.watchOom(record, () => printEvent(session, id, 'oom'), executor);
  const over = new AbortController();
  const gone = addon()
    .waitPidGone(init.pid)
    .then(() => over.abort());
  while (!over.signal.aborted) {
    await sleep(interval, undefined, { signal: over.signal }).catch(() => {});
    if (!over.signal.aborted) printEvent(session, id, 'stats', await stats(container));
  }
  await gone;
  stopWatch();
}

async function stats(container: Container): Promise<unknown> {
  const metrics = decodeMetrics(await container.backend.stats(container.record, container.executor));
  return metrics === undefined ? {} : statsJson(metrics);
}

function printEvent(session: Session, id: string, type: string, data?: unknown): void {
  session.print(`${JSON.stringify({ type, id, ...(data === undefined ? {} : { data }) })}\n`);
}

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Go's time.ParseDuration, from milliseconds to hours; above zero. */
function milliseconds(text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const total = parts.reduce((sum, [, number, unit]) => sum + Number(number) * (unitMs[unit ?? ''] ?? 0), 0);
  if (parts.map(([whole]) => whole).join('') === text && total > 0) return total;
  throw usageError('events', `flag --interval: ${JSON.stringify(text)} is not a time such as 5s`);
}
