/** What NVIDIA's management library says that /proc does not, and how its probe's answer is read: strictly, as any input. */

export interface NvmlMig {
  /** By which nvidia-smi and NVIDIA's own CDI specs call it. */
  index: number;
  /** "MIG-…". */
  uuid: string;
  gpuInstance: number;
  computeInstance: number;
}

export interface NvmlGpu {
  /** As NVML writes it: "00000000:41:00.0". */
  bus: string;
  uuid: string;
  mig: NvmlMig[];
}

/** How far two GPUs are apart: nvmlGpuTopologyLevel_t. */
export interface NvmlLink {
  pair: [string, string];
  level: number;
}

export interface NvmlFacts {
  driver: string;
  gpus: NvmlGpu[];
  links: NvmlLink[];
}

/** Words for nvmlGpuTopologyLevel_t, as `nvidia-smi topo` has them. */
export const TOPOLOGY: Readonly<Record<number, string>> = {
  0: 'on one board',
  10: 'below one PCIe switch',
  20: 'below several PCIe switches',
  30: 'below one host bridge',
  40: 'on one NUMA node',
  50: 'on different NUMA nodes',
};

const UUID = /^(?:GPU|MIG)-[0-9A-Za-z/-]{1,90}$/;
const BUS = /^[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]$/;
const VERSION = /^\d+(?:\.\d+){1,3}$/;
const MOST = 64;

/** @throws Error, saying what is wrong with it */
export function decodeNvml(text: string): NvmlFacts {
  const top = record(JSON.parse(text), 'answer');
  return {
    driver: word(top['driver'], VERSION, 'driver'),
    gpus: list(top['gpus'], 'gpus').map((each) => {
      const gpu = record(each, 'gpu');
      return {
        bus: word(gpu['bus'], BUS, 'bus'),
        uuid: word(gpu['uuid'], UUID, 'uuid'),
        mig: list(gpu['mig'], 'mig').map(decodeMig),
      };
    }),
    links: list(top['links'], 'links', MOST * MOST).map((each) => {
      const link = record(each, 'link');
      const [one, other] = list(link['pair'], 'pair').map((bus) => word(bus, BUS, 'pair'));
      if (one === undefined || other === undefined) throw new Error('pair: not two');
      return { pair: [one, other], level: whole(link['level'], 'level') };
    }),
  };
}

function decodeMig(value: unknown): NvmlMig {
  const mig = record(value, 'mig');
  return {
    index: whole(mig['index'], 'index'),
    uuid: word(mig['uuid'], UUID, 'uuid'),
    gpuInstance: whole(mig['gpuInstance'], 'gpuInstance'),
    computeInstance: whole(mig['computeInstance'], 'computeInstance'),
  };
}

function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what}: no object`);
  return value as Record<string, unknown>;
}

function list(value: unknown, what: string, most = MOST): unknown[] {
  if (!Array.isArray(value) || value.length > most) throw new Error(`${what}: no list of at most ${most}`);
  return value;
}

function word(value: unknown, form: RegExp, what: string): string {
  if (typeof value !== 'string' || !form.test(value)) throw new Error(`${what}: ${JSON.stringify(value)}`);
  return value;
}

function whole(value: unknown, what: string): number {
  if (!Number.isInteger(value) || (value as number) < 0) throw new Error(`${what}: ${JSON.stringify(value)}`);
  return value as number;
}
