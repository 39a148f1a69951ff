/**
 * The modules that a distribution kernel needs before it can run a pod, in the order in which they are to be loaded.
 * depmod's files say what depends on what (modules.dep(5), modprobe.d(5) on softdep).
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** What depmod(8) leaves in a modules directory, as text. */
export interface ModuleIndex {
  /** modules.dep: "kernel/fs/x.ko.xz: kernel/lib/y.ko.xz …" */
  dep: string;
  /** modules.builtin: one path a line. */
  builtin: string;
  /** modules.softdep: "softdep NAME pre: A B post: C". */
  softdep: string;
  /** modules.alias: "alias PATTERN NAME". */
  alias: string;
}

/** Without these no guest says a word. */
const required = ['virtio_pci', 'virtio_console', 'overlay'];

/** What a pod may ask for. A kernel that lacks one lacks that feature only. */
const wanted = [
  'virtio_rng',
  'virtio_blk',
  'virtio_net',
  'virtio_scsi',
  'sd_mod',
  'virtio_mem',
  'virtio_balloon',
  'vmgenid',
  'nfit',
  'nd_pmem',
  'virtio_pmem',
  'ext4',
  'erofs',
  'squashfs',
  'virtiofs',
  '9pnet_virtio',
  '9p',
  'vmw_vsock_virtio_transport',
  'loop',
  'tun',
  'veth',
  'bridge',
  'pvpanic_pci',
  // Functions of the host that are passed to a pod: disks, and virtual functions of network cards.
  'nvme',
  'igbvf',
  'ixgbevf',
  'iavf',
  // The same for programs of a pod; nothing loads the second when it is asked for.
  'vfio_pci',
  'vfio_iommu_type1',
  'nf_tables',
  'nft_ct',
  'nft_nat',
  'nft_masq',
  'nft_compat',
];

export interface ModuleOrder {
  /** Paths below the modules directory, dependencies first. */
  paths: string[];
  /** Wanted modules that this kernel has neither built in nor as a file. */
  absent: string[];
}

/** Order of loading. FailedPrecondition when a module is missing without which the guest cannot be reached. */
export function moduleOrder(index: ModuleIndex): ModuleOrder {
  const order = modulePaths(index, [...required, ...wanted]);
  const missing = order.absent.find((name) => required.includes(name));
  if (missing === undefined) return order;
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'guest build',
    object: `module ${missing}`,
    reason: 'the kernel has it neither built in nor in the modules directory',
  });
}

/** The files of these modules and of all that they need, dependencies first; what is built in has none. */
export function modulePaths(index: ModuleIndex, names: readonly string[]): ModuleOrder {
  const graph = new Graph(index);
  const absent = names.filter((name) => !graph.builtin.has(name) && !graph.add(name));
  return { paths: graph.order, absent };
}

class Graph {
  readonly builtin: ReadonlySet<string>;
  readonly order: string[] = [];
  readonly #files = new Map<string, { path: string; needs: string[] }>();
  readonly #soft = new Map<string, string[]>();
  readonly #aliases = new Map<string, string[]>();
  readonly #done = new Set<string>();

  constructor(index: ModuleIndex) {
    this.builtin = new Set(lines(index.builtin).map(moduleName));
    for (const line of lines(index.dep)) {
      const [path = '', needs = ''] = line.split(':');
      this.#files.set(moduleName(path), { path, needs: needs.split(' ').filter(Boolean).map(moduleName) });
    }
    for (const line of lines(index.softdep)) {
      const found = /^softdep (\S+) (?:.*?\b)?pre: (.*?)(?: post:.*)?$/.exec(line);
      if (found !== null) this.#soft.set(moduleName(found[1] ?? ''), (found[2] ?? '').split(' '));
    }
    for (const line of lines(index.alias)) {
      const [, pattern = '', name = ''] = line.split(' ');
      if (/[*?[]/.test(pattern) || name === '') continue;
      const key = moduleName(pattern);
      this.#aliases.set(key, [...(this.#aliases.get(key) ?? []), moduleName(name)]);
    }
  }

  /** Adds a module after what it needs; false when there is no such file. */
  add(name: string): boolean {
    const file = this.#files.get(name);
    if (file === undefined) return false;
    if (this.#done.has(name)) return true;
    this.#done.add(name);
    for (const soft of this.#soft.get(name) ?? []) this.#addSoft(moduleName(soft));
    for (const need of file.needs) this.add(need);
    this.order.push(file.path);
    return true;
  }

  /**
   * A soft dependency is a module's name or an alias such as "crypto-crc32c"; one that is not there is no harm. Of
   * several that do the same the portable one is taken: it loads on every processor.
   */
  #addSoft(name: string): void {
    if (this.builtin.has(name) || this.add(name)) return;
    const names = this.#aliases.get(name) ?? [];
    if (names.some((each) => this.builtin.has(each))) return;
    const portableFirst = [...names].sort(
      (a, b) => Number(b.endsWith('_generic')) - Number(a.endsWith('_generic')),
    );
    for (const each of portableFirst) if (this.add(each)) return;
  }
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '' && line[0] !== '#');

/** "kernel/fs/fuse/virtio-fs.ko.xz" is module virtio_fs: the kernel does not tell `-` from `_`. */
function moduleName(path: string): string {
  const base = path.slice(path.lastIndexOf('/') + 1);
  return base.replace(/\.ko(\.\w+)?$/, '').replaceAll('-', '_');
}
