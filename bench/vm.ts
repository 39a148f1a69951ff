/**
 * The vm wall beside the namespace wall: from `ctr run` to the container's first output, with what the time went into,
 * and what a pod costs in memory, process by process. A clone of the template and a cold boot are measured alike.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { testImage } from '../test/e2e/lib/image.ts';
import { execTrue, fresh, idle, stdoutRate, type Contender } from './ctr_cases.ts';
import { interleave, median, type Series } from './measure.ts';
import { stackedChart, type Stack } from './stacked.ts';
import { memoryOf, memoryTable, startKind, vmKinds, type Kind, type MemoryRow } from './vm_memory.ts';

const NAMESPACE = 'io.containerd.bulkhead.v2';

/** What a start consists of, in order; milliseconds each. */
const segments = [
  'containerd, shim, engine',
  'template and memory made ready',
  'QEMU and virtiofsd started',
  'agent answers',
  'share plugged',
  'share mounted, guest set up',
  'container to its first output',
] as const;

interface Start {
  total: number;
  /** By segment; undefined for the namespace wall. */
  parts: number[] | undefined;
}

export interface VmReport {
  starts: Series[];
  stacks: Stack[];
  /** `ctr task exec` of `true` in an idle pod, ms. */
  execs: Series[];
  /** MB/s of a container's stdout. */
  stdout: Series[];
  memory: MemoryRow[];
}

const STDOUT_MB = 256;
const STDOUT_ROUNDS = 5;

/** @param rounds starts of each kind; @param counts numbers of idle pods whose memory is measured */
export async function benchVm(rounds: number, counts: readonly number[]): Promise<VmReport> {
  const bulkheadConfig = '[engine]\nlog_level = "debug"\n';
  const machines: Kind[] = [];
  try {
    for (const kind of vmKinds) machines.push(await startKind(kind, { bulkheadConfig }));
    const [first] = machines;
    if (first === undefined) throw new Error('no kind of machine');
    const kinds: Kind[] = [{ ...first, name: 'namespace', runtime: NAMESPACE }, ...machines];
    const parts = kinds.map(() => [] as number[][]);
    const starts = await interleave(
      rounds,
      kinds.map((kind, index) => ({
        name: kind.name,
        sample: async (round: number) => {
          const start = await firstOutput(kind);
          if (round > 0 && start.parts !== undefined) parts[index]?.push(start.parts);
          return start.total;
        },
      })),
    );
    const stacks = kinds.map(({ name }, index) =>
      stackOf(name, starts[index]?.samples ?? [], parts[index] ?? []),
    );
    const beside = kinds.slice(0, 2);
    const execs = await execTimes(beside, rounds);
    const stdout = await interleave(
      STDOUT_ROUNDS,
      beside.map((kind) => ({
        name: kind.name,
        sample: () => stdoutRate(kind.containerd, contender(kind), STDOUT_MB),
      })),
    );
    const memory: MemoryRow[] = [];
    for (const kind of machines) {
      for (const count of counts) memory.push(...(await memoryOf(kind, count)));
    }
    return { starts, stacks, execs, stdout, memory };
  } finally {
    await Promise.all(machines.map(({ containerd }) => containerd.stop()));
  }
}

/** As the other cases take it; the memory of its helpers is not measured by those. */
const contender = ({ name, runtime }: Kind): Contender => ({
  name,
  runtime,
  flags: [],
  shim: '',
  helpers: [],
});

async function execTimes(kinds: readonly Kind[], rounds: number): Promise<Series[]> {
  const pods: { name: string; containerd: PrivateContainerd; id: string }[] = [];
  for (const kind of kinds) {
    const { name, containerd } = kind;
    pods.push({ name, containerd, id: await idle(containerd, contender(kind)) });
  }
  const series = await interleave(
    rounds,
    pods.map(({ name, containerd, id }) => ({ name, sample: () => execTrue(containerd, id) })),
  );
  await Promise.all(pods.map(({ containerd, id }) => containerd.remove(id)));
  return series;
}

function stackOf(name: string, totals: readonly number[], parts: readonly number[][]): Stack {
  if (parts.length === 0) return { name, parts: [{ label: 'start to first output', value: median(totals) }] };
  return {
    name,
    parts: segments.map((label, n) => ({ label, value: median(parts.map((each) => each[n] ?? Number.NaN)) })),
  };
}

/** `ctr run` of a container that writes one line at once; the clock stops when ctr passes that on. */
async function firstOutput({ containerd, runtime }: Kind): Promise<Start> {
  const id = fresh('first');
  const words = ['--rm', '--runtime', runtime, testImage, id, 'echo', 'here'];
  const { file, args, env } = containerd.command(['run', '--snapshotter', containerd.snapshotter, ...words]);
  const began = Date.now();
  const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const first = new Promise<number>((resolve) => child.stdout.once('data', () => resolve(Date.now())));
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  const at = await Promise.race([first, ended.then(() => Number.NaN)]);
  const code = await ended;
  if (code !== 0 || Number.isNaN(at)) throw new Error(`ctr run ${id}: exit ${code}: ${errors}`);
  return { total: at - began, parts: runtime !== NAMESPACE ? partsOf(containerd, id, began, at) : undefined };
}

/** The engine's log has a line for each machine, with milliseconds since it began to make it. */
function partsOf(containerd: PrivateContainerd, id: string, began: number, at: number): number[] {
  const log = readFileSync(join(containerd.bulkheadRoot, 'engine.log'), 'utf8');
  const line = log
    .split('\n')
    .findLast((each) => each.includes('virtual machine is up') && each.includes(`id=${id} `));
  if (line === undefined) throw new Error(`engine.log says nothing of ${id}`);
  const lap = (name: string): number => Number(new RegExp(` ${name}=(\\d+)`).exec(line)?.[1] ?? Number.NaN);
  const up = Date.parse(/time=(\S+)/.exec(line)?.[1] ?? '');
  const marks = ['prepared', 'launched', 'agent', 'plugged', 'ready'].map(lap);
  const boot = up - lap('ready') - began;
  const points = [0, boot, ...marks.map((mark) => boot + mark), at - began];
  return points.slice(1).map((point, n) => point - (points[n] ?? 0));
}

/** The report as tables for a terminal. */
export function vmTables({ stacks, execs, stdout, memory }: VmReport): string {
  const lines = ['vm: from ctr run to the first output (ms, medians)'];
  for (const { name, parts } of stacks) {
    const total = parts.reduce((sum, { value }) => sum + value, 0);
    lines.push(`${name.padEnd(34)}${total.toFixed(0).padStart(8)}`);
    for (const { label, value } of parts.length > 1 ? parts : []) {
      lines.push(`  ${label.padEnd(32)}${value.toFixed(0).padStart(8)}`);
    }
  }
  for (const { contender, samples } of execs)
    lines.push(`exec of true, ${contender}`.padEnd(34) + median(samples).toFixed(0).padStart(8));
  for (const { contender, samples } of stdout)
    lines.push(`stdout MB/s, ${contender}`.padEnd(34) + median(samples).toFixed(0).padStart(8));
  return [...lines, '', memoryTable(memory)].join('\n');
}

/** The break-down as a plot; SVG text. */
export const vmChart = ({ stacks }: VmReport): string =>
  stackedChart(
    'From ctr run to the container’s first output',
    'milliseconds, medians of interleaved runs',
    stacks,
  );
