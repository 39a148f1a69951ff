/**
 * The vm wall beside the namespace wall: from `ctr run` to the container's first output, with what the time went into,
 * and what a pod costs in memory, process by process. A clone of the template and a cold boot are measured alike.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateContainerd, type StartOptions } from '../test/e2e/lib/containerd.ts';
import { eventually } from '../test/e2e/lib/exec.ts';
import { testImage } from '../test/e2e/lib/image.ts';
import { fresh } from './ctr_cases.ts';
import { interleave, median, pidsWhere, type Series } from './measure.ts';
import { stackedChart, type Stack } from './stacked.ts';

const NAMESPACE = 'io.containerd.bulkhead.v2';
const VM = 'io.containerd.bulkhead-vm.v2';

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

interface Kind {
  name: string;
  runtime: string;
  containerd: PrivateContainerd;
}

interface Start {
  total: number;
  /** By segment; undefined for the namespace wall. */
  parts: number[] | undefined;
}

export interface VmReport {
  starts: Series[];
  stacks: Stack[];
  memory: MemoryRow[];
}

export interface MemoryRow {
  kind: string;
  pods: number;
  /** "qemu", "virtiofsd", "monitor", "engine", "guest memory", "template". */
  what: string;
  /** MB for each pod; the engine's are divided among the pods. */
  private: number;
  pss: number;
}

/** @param rounds starts of each kind; @param counts numbers of idle pods whose memory is measured */
export async function benchVm(rounds: number, counts: readonly number[]): Promise<VmReport> {
  const bulkheadConfig = '[engine]\nlog_level = "debug"\n';
  const cloned = await PrivateContainerd.start({ bulkheadConfig });
  const started = [cloned];
  const another = async (options: StartOptions): Promise<PrivateContainerd> => {
    const one = await PrivateContainerd.start({ bulkheadConfig, ...options });
    started.push(one);
    return one;
  };
  try {
    // The snapshotter that hands over images came with containerd 1.7.
    const images = await another({ version: '1.7', blockfile: true });
    const cold = await another({ vmConfig: 'template = false\n' });
    const kinds: Kind[] = [
      { name: 'namespace', runtime: NAMESPACE, containerd: cloned },
      { name: 'vm, cloned, shared directory', runtime: VM, containerd: cloned },
      { name: 'vm, cloned, disk image', runtime: VM, containerd: images },
      { name: 'vm, cold, shared directory', runtime: VM, containerd: cold },
    ];
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
    const memory: MemoryRow[] = [];
    for (const kind of kinds.slice(1)) {
      for (const count of counts) memory.push(...(await memoryOf(kind, count)));
    }
    return { starts, stacks, memory };
  } finally {
    await Promise.all(started.map((each) => each.stop()));
  }
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
  const words = ['run', '--rm', '--runtime', runtime, testImage, id, 'echo', 'here'];
  const { file, args, env } = containerd.command(words);
  const began = Date.now();
  const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const first = new Promise<number>((resolve) => child.stdout.once('data', () => resolve(Date.now())));
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  const at = await Promise.race([first, ended.then(() => Number.NaN)]);
  const code = await ended;
  if (code !== 0 || Number.isNaN(at)) throw new Error(`ctr run ${id}: exit ${code}: ${errors}`);
  return { total: at - began, parts: runtime === VM ? partsOf(containerd, id, began, at) : undefined };
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

/** What `count` idle pods hold, for each of them. */
async function memoryOf(kind: Kind, count: number): Promise<MemoryRow[]> {
  const { containerd, runtime } = kind;
  const ids = Array.from({ length: count }, () => fresh('idle'));
  for (const id of ids) {
    const flags = ['-d', '--null-io'];
    const result = await containerd.run(id, ['sleep', '100000'], { runtime, flags });
    if (result.code !== 0) throw new Error(`ctr run -d ${id}: ${result.stderr}`);
  }
  // What starting has touched is part of the price; what is only being torn down is not.
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const of = (what: string, matches: (command: string) => boolean): MemoryRow[] => {
    const found = pidsWhere((command, pid) => matches(command) && belongsTo(containerd, pid)).map(usage);
    const sum = (key: keyof Usage): number =>
      found.reduce((total, each) => total + each[key], 0) / 1024 / count;
    const row = { kind: kind.name, pods: count };
    return [
      { ...row, what, private: sum('private'), pss: sum('pss') },
      { ...row, what: 'guest memory', private: sum('guest'), pss: sum('guestPss') },
      // Clones with private memory have it in common.
      { ...row, what: 'template', private: 0, pss: sum('template') },
    ].filter((each) => each.what === what || each.pss > 0);
  };
  const isQemu = (command: string): boolean => command.startsWith('qemu ');
  const rows = [
    ...of('qemu', isQemu),
    ...of('virtiofsd', (command) => /^\S*virtiofsd /.test(command)),
    ...of('monitor', (command) => command.includes('containerd-shim-bulkhead-vm-v2')),
    ...of('engine', (command) => command.includes('engine.cjs')),
  ];
  await Promise.all(ids.map((id) => containerd.remove(id)));
  await eventually('the machines to end', () => pidsWhere((command) => isQemu(command)).length === 0);
  return rows;
}

/** The other containerd's processes are not counted: every one of ours has our state root in its environment or arguments. */
function belongsTo({ bulkheadRoot }: PrivateContainerd, pid: number): boolean {
  try {
    const files = readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`));
    const texts = [
      readFileSync(`/proc/${pid}/cmdline`, 'utf8'),
      readFileSync(`/proc/${pid}/environ`, 'utf8'),
      ...files,
    ];
    return texts.some((text) => text.includes(bulkheadRoot));
  } catch {
    return false;
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

/** Kilobytes of a process. */
export interface Usage {
  private: number;
  pss: number;
  /** Of the guest's memory: what this machine alone has, and its part of what machines have in common. */
  guest: number;
  guestPss: number;
  /** Memory of templates that an engine holds. */
  template: number;
}

/**
 * What a process holds of its own. The guest's memory is told apart by its mapping. Where it is a file that others may
 * map too (virtiofsd does), what of the file is filled counts, once, for QEMU: also pages that nobody has touched since
 * they were copied from the template. Where it is the template mapped privately, what was written to counts; the rest is
 * the template's.
 */
export function usage(pid: number): Usage {
  const total: Usage = { private: 0, pss: 0, guest: 0, guestPss: 0, template: 0 };
  try {
    const text = readFileSync(`/proc/${pid}/smaps`, 'utf8');
    const files = memoryFiles(pid);
    addMappings(total, text);
    const shared = /^[0-9a-f]+-[0-9a-f]+ rw-s \S+ \S+ \d+ *\/memfd:/m.test(text);
    const isQemu = readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('qemu\0');
    if (isQemu && shared) total.guest = total.guestPss = Math.max(0, ...files.map(({ kib }) => kib));
    if (!isQemu) {
      for (const { name, kib } of files)
        if (name.startsWith('/memfd:bulkhead template')) total.template += kib;
    }
  } catch {
    // It has ended.
  }
  return total;
}

function memoryFiles(pid: number): { name: string; kib: number }[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    const path = `/proc/${pid}/fd/${fd}`;
    const name = linkOf(path);
    return name.startsWith('/memfd:') ? [{ name, kib: (statSync(path).blocks * 512) / 1024 }] : [];
  });
}

function addMappings(total: Usage, smaps: string): void {
  let kind: 'own' | 'private guest' | 'shared guest' = 'own';
  for (const line of smaps.split('\n')) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(.*)$/.exec(line);
    if (mapping !== null) {
      const [, flags = '', name = ''] = mapping;
      if (!name.startsWith('/memfd:')) kind = 'own';
      else kind = flags.endsWith('s') ? 'shared guest' : 'private guest';
    }
    const field = /^(Pss|Private_Clean|Private_Dirty):\s+(\d+) kB/.exec(line);
    if (field === null || kind === 'shared guest') continue;
    const isPss = field[1] === 'Pss';
    const key = kind === 'own' ? (isPss ? 'pss' : 'private') : isPss ? 'guestPss' : 'guest';
    total[key] += Number(field[2]);
  }
}

/** The report as tables for a terminal. */
export function vmTables({ stacks, memory }: VmReport): string {
  const lines = ['vm: from ctr run to the first output (ms, medians)'];
  for (const { name, parts } of stacks) {
    const total = parts.reduce((sum, { value }) => sum + value, 0);
    lines.push(`${name.padEnd(34)}${total.toFixed(0).padStart(8)}`);
    for (const { label, value } of parts.length > 1 ? parts : []) {
      lines.push(`  ${label.padEnd(32)}${value.toFixed(0).padStart(8)}`);
    }
  }
  lines.push('', 'vm: memory of an idle pod (MB)        pods  private      PSS');
  const row = (label: string, pods: number, own: number, pss: number): string =>
    `${label.padEnd(36)}${String(pods).padStart(6)}${own.toFixed(1).padStart(9)}${pss.toFixed(1).padStart(9)}`;
  const groups = new Set(memory.map(({ kind, pods }) => `${kind} ${pods}`));
  for (const group of groups) {
    const rows = memory.filter(({ kind, pods }) => `${kind} ${pods}` === group);
    const [first] = rows;
    if (first === undefined) continue;
    const sum = (key: 'private' | 'pss'): number => rows.reduce((total, each) => total + each[key], 0);
    lines.push(row(first.kind, first.pods, sum('private'), sum('pss')));
    for (const { what, pods, private: own, pss } of rows) lines.push(row(`  ${what}`, pods, own, pss));
  }
  return lines.join('\n');
}

/** The break-down as a plot; SVG text. */
export const vmChart = ({ stacks }: VmReport): string =>
  stackedChart(
    'From ctr run to the container’s first output',
    'milliseconds, medians of interleaved runs',
    stacks,
  );
