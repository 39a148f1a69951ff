/** Persistent memory as libnvdimm shows it (Documentation/driver-api/nvdimm/nvdimm.rst, Documentation/ABI/testing/sysfs-bus-nvdimm). */
import type { HostTree } from '../host_tree.ts';
import type { Machine } from '../model.ts';

const ND = '/sys/bus/nd/devices';
const DAX = '/sys/bus/dax/devices';

/** What ndctl calls the modes; sysfs says "safe" for sector, "memory" for fsdax and "dax" for devdax. */
export type PmemMode = 'raw' | 'sector' | 'fsdax' | 'devdax';
const modes: Readonly<Record<string, PmemMode>> = {
  raw: 'raw',
  safe: 'sector',
  memory: 'fsdax',
  dax: 'devdax',
};

export interface PmemMount {
  path: string;
  type: string;
  /** Mounted so that files can be mapped directly: dax, dax=always or dax=inode. */
  dax: boolean;
}

export interface PmemDevice {
  /** "namespace0.0". */
  id: string;
  mode: PmemMode;
  /** Bytes. */
  size: number;
  numaNode: number | undefined;
  region: string;
  /** What the region's address and sizes must be multiples of, in bytes; 0: it does not say. */
  align: number;
  /** Where the region begins in physical memory; undefined: it does not say. */
  address: number | undefined;
  /** "/dev/pmem0", "/dev/pmem0s", "/dev/dax0.0"; empty when no driver has taken the namespace. */
  node: string;
  /** The block device can be mapped directly (queue/dax), or is a character device that is. */
  dax: boolean;
  mounts: PmemMount[];
}

export function probePmem({ host }: Pick<Machine, 'host'>): PmemDevice[] {
  return host
    .entries(ND)
    .filter((name) => /^namespace\d+\.\d+$/.test(name))
    .flatMap((id): PmemDevice[] => {
      const mode = modes[host.text(`${ND}/${id}/mode`) ?? ''];
      const size = Number(host.text(`${ND}/${id}/size`) ?? '0');
      // Every region has a namespace of size 0 that the next one will be made of.
      return mode === undefined || size === 0 ? [] : [readNamespace(host, id, mode, size)];
    });
}

function readNamespace(host: HostTree, id: string, mode: PmemMode, size: number): PmemDevice {
  const region = `region${/^namespace(\d+)/.exec(id)?.[1] ?? ''}`;
  const holder = host.text(`${ND}/${id}/holder`) ?? '';
  const node = mode === 'devdax' ? daxNode(host, region) : blockNode(host, id, holder);
  const numaNode = Number(host.text(`${ND}/${id}/numa_node`) ?? '-1');
  const address = host.text(`${ND}/${region}/resource`);
  return {
    id,
    mode,
    size,
    numaNode: numaNode < 0 ? undefined : numaNode,
    region,
    align: Number(host.text(`${ND}/${region}/align`) ?? '0'),
    address: address === undefined ? undefined : Number(address),
    node,
    dax:
      node !== '' && (mode === 'devdax' || host.text(`/sys/class/block/${node.slice(5)}/queue/dax`) === '1'),
    mounts: mountsOf(host, node),
  };
}

/** The block device hangs below the namespace itself, or below what holds it (pfn0.0, btt0.0). */
function blockNode(host: HostTree, id: string, holder: string): string {
  const name = [holder, id]
    .filter((device) => device !== '')
    .flatMap((device) => host.entries(`${ND}/${device}/block`))[0];
  return name === undefined ? '' : `/dev/${name}`;
}

/** Device-DAX nodes are numbered by region. */
function daxNode(host: HostTree, region: string): string {
  const name = host.entries(DAX).find((entry) => entry.startsWith(`dax${region.slice(6)}.`));
  return name === undefined ? '' : `/dev/${name}`;
}

function mountsOf(host: HostTree, node: string): PmemMount[] {
  if (node === '') return [];
  return readMounts(host)
    .filter(({ source }) => source === node)
    .map(({ target, type, options }) => ({ path: target, type, dax: hasDax(options) }));
}

export interface Mount {
  source: string;
  target: string;
  type: string;
  options: string[];
}

/** proc_mounts(5): spaces in paths are written as \040. */
export function readMounts(host: HostTree): Mount[] {
  return (host.text('/proc/mounts') ?? '').split('\n').flatMap((line): Mount[] => {
    const [source, target, type, options] = line
      .split(' ')
      .map((word) =>
        word.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8))),
      );
    if (source === undefined || target === undefined || type === undefined) return [];
    return [{ source, target, type, options: (options ?? '').split(',') }];
  });
}

export function hasDax(options: readonly string[]): boolean {
  return options.some((option) => option === 'dax' || option === 'dax=always' || option === 'dax=inode');
}
