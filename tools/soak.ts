/**
 * Mixed load behind the sentry wall for some time, and a look at what must not grow: descriptors, memory, threads of
 * supervisors, monitors and the engine, and system calls without an answer.
 *
 *   tools/private.sh node tools/run.mjs tools/soak.ts [--minutes 60] [--pause 0.2] [--report FILE] [--hold FILE]
 *
 * Six containers work for the whole time; others come and go beside them, with execs and kills. Exit status 1 with the
 * reasons when anything grew beyond its limit, stood still, got stuck or was left over. While the file of --hold is there
 * nothing works: something beside it is being measured.
 */
import { appendFileSync, existsSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { socketDirectory, supervisorSocket } from '../src/sandbox/sentry/socket.ts';
import { followDecisions, readCounts } from '../src/sandbox/sentry/watch.ts';
import { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { faults, growth, sample, StuckCalls, type Sample } from '../test/soak/checker.ts';
import { loads } from '../test/soak/loads.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    pause: { type: 'string', default: '0.2' },
    report: { type: 'string' },
    hold: { type: 'string' },
  },
});
const minutes = Number(values.minutes);
const pause = Number(values.pause);
if (!(minutes > 0) || !(pause >= 0)) {
  console.error('usage: soak.ts [--minutes N] [--pause SECONDS] [--report FILE] [--hold FILE]');
  process.exit(2);
}

const SAMPLE_MS = Math.min(10_000, (minutes * 60_000) / 36);
/** A load that prints nothing for so long has got stuck. */
const STILL_MS = 120_000;

/** For what may be in the middle of its work when everything is held. */
const PATIENCE_MS = 300_000;

const containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
const wrong: string[] = [];
const counts = { execs: 0, starts: 0, kills: 0, holds: 0, records: 0, lost: 0 };
const samples: Sample[][] = [];
const end = Date.now() + minutes * 60_000;
const logOf = (name: string): string => join(containerd.dir, `${name}.rounds`);
const sizeOf = (name: string): number => statSync(logOf(name), { throwIfNoEntry: false })?.size ?? 0;

let frozen = false;
const isHeld = (): boolean => values.hold !== undefined && (frozen || existsSync(values.hold));
const unlessHeld = async (): Promise<void> => {
  while (isHeld()) await sleep(500);
};

/** Execs in the working containers; what they print is checked. */
async function execs(names: readonly string[]): Promise<void> {
  for (let i = 0; Date.now() < end; i++) {
    await unlessHeld();
    const name = names[i % names.length] ?? '';
    const script = `uname -s; echo ${i}`;
    const result = await containerd.exec(name, `x${i}`, ['sh', '-c', script], { timeout: PATIENCE_MS });
    if (values.hold !== undefined && result.stderr.includes('container is paused')) continue;
    if (result.stdout !== `Linux\n${i}\n`) {
      wrong.push(`exec ${i} in ${name}: code ${result.code}: ${result.stdout}${result.stderr}`);
    }
    counts.execs++;
    await sleep(pause * 1000);
  }
}

/** Containers that end by themselves, and containers that are killed at work. */
async function churn(): Promise<void> {
  for (let i = 0; Date.now() < end; i++) {
    await unlessHeld();
    const id = `churn${i}`;
    if (i % 3 === 0) {
      await containerd.detached(id, ['sh', '-c', 'while :; do uname -a; id; done >/dev/null']);
      await sleep(100);
      await containerd.remove(id);
      counts.kills++;
    } else {
      const result = await containerd.run(id, ['sh', '-c', 'uname -s'], { timeout: PATIENCE_MS });
      if (result.stdout !== 'Linux\n') wrong.push(`run ${i}: code ${result.code}: ${result.stderr}`);
      counts.starts++;
    }
    await sleep(pause * 2000);
  }
}

const supervisorOf = (name: string): string =>
  supervisorSocket(socketDirectory(containerd.bulkheadRoot), containerd.namespace, name);

/** A reader of one supervisor's decisions, and one of another's that never reads; both for the whole time. */
function readDecisions(read: string, unread: string): () => void {
  const follower = followDecisions(supervisorOf(read), ({ lost }) => {
    counts.records++;
    counts.lost += lost;
  });
  follower.ended.catch((error: unknown) => wrong.push(`trace of ${read}: ${String(error)}`));
  const idle = connect(supervisorOf(unread), () => idle.write('watch'));
  idle.on('error', (error) => wrong.push(`unread trace of ${unread}: ${error.message}`));
  return () => {
    follower.close();
    idle.destroy();
  };
}

/** Freezes the working containers until they may go on. */
async function hold(progress: Map<string, { at: number }>): Promise<void> {
  frozen = true;
  for (const name of progress.keys()) await containerd.ctr(['task', 'pause', name]);
  while (values.hold !== undefined && existsSync(values.hold)) await sleep(500);
  for (const [name, last] of progress) {
    await containerd.ctr(['task', 'resume', name]);
    last.at = Date.now();
  }
  frozen = false;
  counts.holds++;
}

async function watch(names: readonly string[]): Promise<void> {
  const stuck = new StuckCalls();
  const progress = new Map(names.map((name) => [name, { size: -1, at: Date.now() }]));
  while (Date.now() < end) {
    await sleep(SAMPLE_MS);
    if (isHeld()) await hold(progress);
    samples.push(sample(containerd));
    for (const name of names) await readCounts(supervisorOf(name));
    wrong.push(...stuck.look(containerd));
    for (const [name, last] of progress) {
      const size = sizeOf(name);
      if (size > last.size) progress.set(name, { size, at: Date.now() });
      else if (Date.now() - last.at > STILL_MS) {
        wrong.push(`${name}: no round for ${STILL_MS / 1000} s`);
        last.at = Date.now();
      }
    }
    if (wrong.length > 50) throw new Error('too much goes wrong');
  }
}

try {
  const names: string[] = [];
  for (const { name, command, flags } of loads(pause)) {
    await containerd.detached(name, command, ['--log-uri', `file://${logOf(name)}`, ...flags]);
    names.push(name);
  }
  const stopReading = readDecisions('sockets', 'forks');
  await Promise.all([execs(names), churn(), watch(names)]);
  stopReading();
  if (counts.records === 0) wrong.push('a trace stayed empty');
  const rounds = Object.fromEntries(names.map((name) => [name, Math.floor(sizeOf(name) / 'round\n'.length)]));
  for (const [name, count] of Object.entries(rounds)) if (count === 0) wrong.push(`${name}: no round at all`);
  for (const name of names) {
    if ((await containerd.status(name)) !== 'RUNNING') wrong.push(`${name}: has ended`);
    await containerd.remove(name);
  }
  const grown = growth(samples);
  wrong.push(...faults(grown));
  for (const role of ['supervisor', 'monitor', 'engine'] as const) {
    if (!grown.some((one) => one.role === role)) wrong.push(`no ${role} was seen all the time`);
  }
  wrong.push(...(await containerd.leaks()).map((leak) => `left over: ${leak}`));
  const report = { minutes, pause, samples: samples.length, ...counts, rounds, grown, wrong };
  const json = `${JSON.stringify(report, null, 2)}\n`;
  console.log(json);
  if (values.report !== undefined) writeFileSync(values.report, json);
} catch (error) {
  wrong.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  console.error(wrong.join('\n'));
  if (values.report !== undefined) appendFileSync(values.report, `${wrong.join('\n')}\n`);
} finally {
  await containerd.stop();
}
process.exit(wrong.length > 0 ? 1 : 0);
