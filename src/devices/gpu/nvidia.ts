/**
 * NVIDIA GPUs without NVIDIA's toolkit or library: what the kernel driver says in /proc/driver/nvidia, nvidia-caps and
 * /proc/devices. UUIDs of MIG devices are not there (nvml/ asks for them); without, their names are by position.
 */
import type { HostTree } from '../host_tree.ts';

const PROC = '/proc/driver/nvidia';

export interface MigInstance {
  gpuInstance: number;
  computeInstance: number;
  /** Minors of /dev/nvidia-caps/nvidia-capN that open the two. */
  caps: [number, number];
  /** Of NVML: NVIDIA's own number for it, and "MIG-…"; /proc has neither. */
  index?: number;
  uuid?: string;
}

export interface NvidiaGpu {
  /** PCI address, lower case with a four-digit domain: "0000:41:00.0". */
  address: string;
  model: string;
  uuid: string;
  minor: number;
  mig: MigInstance[];
}

export interface NvidiaDriver {
  /** "570.86.15". */
  version: string;
  gpus: NvidiaGpu[];
  /** Majors of /proc/devices by name: nvidia, nvidia-uvm, nvidia-caps, nvidia-nvswitch. */
  majors: Record<string, number>;
  /** Of NVML: how far GPUs are apart (nvmlGpuTopologyLevel_t), each pair once; absent: not known. */
  links?: { pair: [string, string]; level: number }[];
}

/** undefined when the driver is not loaded. */
export function probeNvidia(host: HostTree): NvidiaDriver | undefined {
  const version = parseDriverVersion(host.text(`${PROC}/version`) ?? '');
  if (version === undefined) return undefined;
  const minors = parseMigMinors(host.text('/proc/driver/nvidia-caps/mig-minors') ?? '');
  const gpus = host
    .entries(`${PROC}/gpus`)
    .map((directory) => readGpu(host, directory, minors))
    .sort((a, b) => (a.address < b.address ? -1 : 1));
  return { version, gpus, majors: parseMajors(host.text('/proc/devices') ?? '') };
}

/** "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  …", or "… Open Kernel Module for x86_64  570.86.15  …". */
export function parseDriverVersion(text: string): string | undefined {
  return /^NVRM version:.*Kernel Module(?:\s+for\s+\S+)?\s+(\d+\.\d+(?:\.\d+)?)/m.exec(text)?.[1];
}

function readGpu(host: HostTree, directory: string, capMinors: ReadonlyMap<string, number>): NvidiaGpu {
  const fields = new Map(
    (host.text(`${PROC}/gpus/${directory}/information`) ?? '')
      .split('\n')
      .map((line) => /^([^:]+):\s*(.*)$/.exec(line))
      .map((match) => [match?.[1]?.trim() ?? '', match?.[2]?.trim() ?? '']),
  );
  const minor = Number(fields.get('Device Minor') ?? '-1');
  return {
    address: pciAddress(directory),
    model: fields.get('Model') ?? '',
    uuid: fields.get('GPU UUID') ?? '',
    minor,
    mig: readMig(host, minor, capMinors),
  };
}

/** The driver writes domains with four or eight digits. */
export function pciAddress(text: string): string {
  const [, domain = '0', rest = ''] = /^([0-9a-fA-F]+):(.+)$/.exec(text) ?? [];
  return `${domain.replace(/^0+(?=.{4})/, '').padStart(4, '0')}:${rest}`.toLowerCase();
}

/** Instances that exist: directories below capabilities. mig-minors has all that could. */
function readMig(host: HostTree, minor: number, capMinors: ReadonlyMap<string, number>): MigInstance[] {
  const at = `${PROC}/capabilities/gpu${minor}/mig`;
  const numbered = (path: string, prefix: string): number[] =>
    host
      .entries(path)
      .flatMap((name) =>
        new RegExp(`^${prefix}\\d+$`).test(name) ? [Number(name.slice(prefix.length))] : [],
      )
      .sort((a, b) => a - b);
  return numbered(at, 'gi').flatMap((gi) =>
    numbered(`${at}/gi${gi}`, 'ci').flatMap((ci): MigInstance[] => {
      const gpuCap = capMinors.get(`gpu${minor}/gi${gi}/access`);
      const computeCap = capMinors.get(`gpu${minor}/gi${gi}/ci${ci}/access`);
      if (gpuCap === undefined || computeCap === undefined) return [];
      return [{ gpuInstance: gi, computeInstance: ci, caps: [gpuCap, computeCap] }];
    }),
  );
}

/** Lines "gpu0/gi1/ci0/access 13". */
export function parseMigMinors(text: string): Map<string, number> {
  return new Map(
    text.split('\n').flatMap((line): [string, number][] => {
      const match = /^(\S+) (\d+)$/.exec(line.trim());
      return match === null ? [] : [[match[1] ?? '', Number(match[2])]];
    }),
  );
}

function parseMajors(text: string): Record<string, number> {
  const majors: Record<string, number> = {};
  for (const line of text.split('\n')) {
    const match = /^\s*(\d+) (nvidia\S*)$/.exec(line);
    if (match !== null) majors[match[2] ?? ''] ??= Number(match[1]);
  }
  // Drivers before 550 register all of 195 as "nvidia-frontend".
  const frontend = majors['nvidia-frontend'];
  if (frontend !== undefined) majors['nvidia'] ??= frontend;
  return majors;
}
