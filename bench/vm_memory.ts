/** What idle pods of the vm wall hold, process by process, and the kinds of machines that are compared. */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { PrivateContainerd, type StartOptions } from '../test/e2e/lib/containerd.ts';
import { eventually } from '../test/e2e/lib/exec.ts';
import { fresh } from './ctr_cases.ts';
import { pidsWhere } from './measure.ts';

const VM = 'io.containerd.bulkhead-vm.v2';

/** A containerd whose pods are of one kind. */
export interface Kind {
  name: string;
  runtime: string;
  containerd: PrivateContainerd;
}

/** The machines that are compared. The snapshotter that hands over images came with containerd 1.7. */
export const vmKinds: readonly { name: string; options: StartOptions }[] = [
  { name: 'vm, cloned, shared directory', options: {} },
  { name: 'vm, cloned, disk image', options: { version: '1.7', blockfile: true } },
  {
    name: 'vm, cloned, persistent memory',
    options: { version: '1.7', blockfile: true, vmConfig: 'root_device = "pmem"\n' },
  },
  { name: 'vm, cold, shared directory', options: { vmConfig: 'template = false\n' } },
];

/** Of one of vmKinds; the containerd is the caller's to stop. */
export async function startKind(
  { name, options }: (typeof vmKinds)[number],
  more: StartOptions = {},
): Promise<Kind> {
  const vmConfig = `${options.vmConfig ?? ''}${more.vmConfig ?? ''}`;
  const containerd = await PrivateContainerd.start({ ...options, ...more, vmConfig });
  return { name, runtime: VM, containerd };
}

export interface MemoryRow {
  kind: string;
  pods: number;
  /** "qemu", "virtiofsd", "monitor", "engine", "guest memory", "template", "image". */
  what: string;
  /** MB for each pod; the engine's are divided among the pods. */
  private: number;
  pss: number;
}

/** What `count` idle pods hold, for each of them. */
export async function memoryOf(kind: Kind, count: number): Promise<MemoryRow[]> {
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
      // The host's page cache of a root file system that is persistent memory, which all who map the file share.
      { ...row, what: 'image', private: 0, pss: sum('image') },
    ].filter((each) => each.what === what || each.pss > 0);
  };
  const isQemu = (command: string): boolean => command.startsWith('qemu ');
  const rows = [
    ...of('qemu', isQemu),
    ...of('virtiofsd', (command) => /^\S*virtiofsd /.test(command)),
    ...of('monitor', (command) => command.includes('containerd-shim-bulkhead-vm-v2')),
    ...of('engine', (command) => command.includes('engine.cjs')),
  ];
  for (const id of ids) await containerd.remove(id);
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
  /** Pages of the host's page cache that it maps to write through to a file, or to read. */
  image: number;
}

/**
 * What a process holds of its own. The guest's memory is told apart by its mapping. Where it is a file that others may
 * map too (virtiofsd does), what of the file is filled counts, once, for QEMU: also pages that nobody has touched since
 * they were copied from the template. Where it is the template mapped privately, what was written to counts; the rest is
 * the template's.
 */
export function usage(pid: number): Usage {
  const total: Usage = { private: 0, pss: 0, guest: 0, guestPss: 0, template: 0, image: 0 };
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
  let kind: 'own' | 'private guest' | 'shared guest' | 'image' = 'own';
  for (const line of smaps.split('\n')) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(.*)$/.exec(line);
    if (mapping !== null) {
      const [, flags = '', name = ''] = mapping;
      if (!name.startsWith('/memfd:')) kind = flags.endsWith('s') && name.startsWith('/') ? 'image' : 'own';
      else kind = flags.endsWith('s') ? 'shared guest' : 'private guest';
    }
    const field = /^(Pss|Private_Clean|Private_Dirty):\s+(\d+) kB/.exec(line);
    if (field === null || kind === 'shared guest') continue;
    const isPss = field[1] === 'Pss';
    if (kind === 'image') {
      if (isPss) total.image += Number(field[2]);
      continue;
    }
    const key = kind === 'own' ? (isPss ? 'pss' : 'private') : isPss ? 'guestPss' : 'guest';
    total[key] += Number(field[2]);
  }
}

/** The rows as a table for a terminal. */
export function memoryTable(memory: readonly MemoryRow[]): string {
  const lines = ['vm: memory of an idle pod (MB)        pods  private      PSS'];
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
