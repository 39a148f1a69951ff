/**
 * What of the host stands on a PCI function: file systems and swap on its disks, directly or by way of LVM, RAID, encryption
 * and loop devices; addresses and routes on its network interfaces, directly or by way of bonds, bridges and VLANs. Drivers let
 * go of both without a question, and what stands on them breaks.
 */
import type { HostTree } from './host_tree.ts';
import { linkName } from './host_tree.ts';
import { holdersOf } from './machine.ts';
import type { Machine } from './model.ts';
import type { PciFunction } from './pci.ts';
import { PCI_DEVICES } from './pci.ts';

/** Of config.json: "true" passes functions all the same. What stands on them breaks. */
export const ALLOW_HOST_USE = 'bulkhead.io/allow-host-use';

export interface HostUse {
  /** "/srv on dm-0 (LVM vg-data) on nvme0n1p2". */
  what: string;
  /** Commands that end it, in order. */
  end: string[];
}

/** Ends the use of a disk that the host runs from: nothing else ends it. */
export const OTHER_ROOT = 'boot from another disk';
const BLOCK = '/sys/class/block';
const NET = '/sys/class/net';
const SUBSYSTEMS = '/sys/class/nvme-subsystem';

export function hostUses(machine: Machine, address: string): HostUse[] {
  const { host, pci } = machine;
  return [
    ...diskUses(machine, address),
    ...networkUses(host, address),
    ...virtualFunctions(
      pci.filter((each) => each.physicalFunction === address),
      address,
    ),
  ];
}

/** They end with the driver of their physical function, whoever has them. */
function virtualFunctions(all: readonly PciFunction[], address: string): HostUse[] {
  if (all.length === 0) return [];
  const what = `its virtual functions ${all.map((each) => each.address).join(', ')}`;
  return [{ what, end: [`echo 0 > ${PCI_DEVICES}/${address}/sriov_numvfs`] }];
}

/** A block device and those below it, down to one of the function's own. */
type Stack = readonly string[];

function diskUses(machine: Machine, address: string): HostUse[] {
  const { host } = machine;
  const own = ownBlocks(host, address);
  if (own.length === 0) return [];
  const stacks = own.flatMap((name) => stacksOn(host, [name], loopsOf(host)));
  const mounts = new MountTables(host);
  const swaps = lines(host, '/proc/swaps').map(([source = '']) => source);
  return stacks.flatMap((stack): HostUse[] => {
    const [top = ''] = stack;
    const aliases = aliasesOf(host, top);
    const numbers = host.text(`${BLOCK}/${top}/dev`) ?? '';
    const below = stack.length === 1 ? '' : ` on ${describe(host, stack)}`;
    const taken = stack.slice(0, -1).flatMap((name) => stopCommand(host, name));
    const mounted = mounts.of(aliases, numbers).map(({ target, umount }) => ({
      what: `${target}${below}`,
      end: [umount, ...taken],
    }));
    const swap = aliases.filter((path) => swaps.includes(path)).slice(0, 1);
    const swapped = swap.map((path) => ({
      what: `swap${below}`,
      end: [`swapoff ${path}`, ...taken],
    }));
    const holders = holdersOf(machine, aliases).filter((holder) => !isUdev(holder));
    const processes = holders.map((holder) => ({
      what: `process ${holder}${stack.length === 1 ? ` on ${top}` : below}`,
      end: [`kill ${holder.split(' ', 1)[0]}`, ...taken],
    }));
    const pooled = (mounted.length > 0 ? [] : poolUses(host, mounts, top)).map(({ what, end }) => ({
      what: `${what}${stack.length === 1 ? ` on ${top}` : below}`,
      end: [...end, ...taken],
    }));
    const uses = [...mounted, ...pooled, ...swapped, ...processes];
    if (uses.length > 0 || stack.length === 1 || hasStackAbove(stacks, stack)) return uses;
    return [{ what: describe(host, stack), end: taken.length > 0 ? taken : [`stop what uses /dev/${top}`] }];
  });
}

/**
 * File systems of several devices, whose mounts name one of these: btrfs says which it has, of ZFS udev knows the members of
 * pools that are imported.
 */
function poolUses(host: HostTree, mounts: MountTables, name: string): HostUse[] {
  const btrfs = host
    .entries('/sys/fs/btrfs')
    .map((id) => ({ id, members: host.entries(`/sys/fs/btrfs/${id}/devices`) }))
    .find(({ members }) => members.includes(name));
  if (btrfs !== undefined) {
    const targets = btrfs.members.flatMap((member) => mounts.of(aliasesOf(host, member), ''));
    if (targets.length === 0) return [{ what: `btrfs ${btrfs.id}`, end: [`umount UUID=${btrfs.id}`] }];
    return targets.map(({ target, umount }) => ({ what: `${target} (btrfs)`, end: [umount] }));
  }
  const found = host.text(`/run/udev/data/b${host.text(`${BLOCK}/${name}/dev`) ?? ''}`) ?? '';
  const [, pool = ''] = /^E:ID_FS_LABEL=(\S+)$/m.exec(found) ?? [];
  const isImported = /^E:ID_FS_TYPE=zfs_member$/m.test(found) && host.exists(`/proc/spl/kstat/zfs/${pool}`);
  return isImported && pool !== '' ? [{ what: `ZFS pool ${pool}`, end: [`zpool export ${pool}`] }] : [];
}

/** Block devices and partitions of the function, by where sysfs says that they are; disks of NVMe that only it leads to. */
function ownBlocks(host: HostTree, address: string): string[] {
  const controllers = host.entries(`${PCI_DEVICES}/${address}/nvme`);
  // With multipath (nvme_core.multipath), the disk is below a subsystem and not below a controller.
  const subsystems = host.entries(SUBSYSTEMS).filter((name) => {
    const paths = host.entries(`${SUBSYSTEMS}/${name}`).filter((entry) => /^nvme\d+$/.test(entry));
    return paths.length > 0 && paths.every((path) => controllers.includes(path));
  });
  return host.entries(BLOCK).filter((name) => {
    const real = host.real(`${BLOCK}/${name}`) ?? '';
    return real.includes(`/${address}/`) || subsystems.some((subsystem) => real.includes(`/${subsystem}/`));
  });
}

/** The device itself, and everything that the kernel has made of it; a device that is part of two is in two stacks. */
function stacksOn(host: HostTree, stack: Stack, loops: ReadonlyMap<string, string>): Stack[] {
  const [top = ''] = stack;
  const above = [
    ...host.entries(`${BLOCK}/${top}/holders`),
    // Partitions of what is above: those of the function's own disks are its own.
    ...(stack.length === 1 ? [] : partitionsOf(host, top)),
    ...[...loops].filter(([, file]) => aliasesOf(host, top).includes(file)).map(([name]) => name),
  ].filter((name) => !stack.includes(name));
  return [...above.flatMap((name) => stacksOn(host, [name, ...stack], loops)), stack];
}

function hasStackAbove(stacks: readonly Stack[], stack: Stack): boolean {
  const below = stack.join(' ');
  return stacks.some((other) => other.length > stack.length && other.join(' ').endsWith(` ${below}`));
}

function partitionsOf(host: HostTree, disk: string): string[] {
  return host.entries(`${BLOCK}/${disk}`).filter((name) => host.exists(`${BLOCK}/${disk}/${name}/partition`));
}

/** Loop devices of block devices; those of files hold the file system that the file is in. */
function loopsOf(host: HostTree): Map<string, string> {
  return new Map(
    host
      .entries(BLOCK)
      .filter((name) => /^loop\d+$/.test(name))
      .map((name) => [name, host.text(`${BLOCK}/${name}/loop/backing_file`) ?? '']),
  );
}

/** "dm-0 (LVM vg-data) on md0 (raid1) on nvme0n1". */
function describe(host: HostTree, stack: Stack): string {
  return stack
    .map((name) => {
      const kind = kindOf(host, name);
      return kind === '' ? name : `${name} (${kind})`;
    })
    .join(' on ');
}

const mapperName = (host: HostTree, name: string): string => host.text(`${BLOCK}/${name}/dm/name`) ?? '';

/** By the prefix of its UUID: "LVM-…", "CRYPT-LUKS2-…", "mpath-…" (libdevmapper). */
function mapperKind(host: HostTree, name: string): string {
  const uuid = host.text(`${BLOCK}/${name}/dm/uuid`) ?? '';
  if (uuid.startsWith('LVM-')) return 'LVM';
  if (uuid.startsWith('CRYPT-')) return 'dm-crypt';
  return uuid.startsWith('mpath-') ? 'multipath' : 'device mapper';
}

function kindOf(host: HostTree, name: string): string {
  if (name.startsWith('dm-')) return `${mapperKind(host, name)} ${mapperName(host, name)}`;
  if (/^md[\d_]/.test(name)) return host.text(`${BLOCK}/${name}/md/level`) ?? 'RAID';
  return '';
}

/** What takes a device of the host apart; partitions of one go with it. */
function stopCommand(host: HostTree, name: string): string[] {
  const mapper = mapperName(host, name);
  if (name.startsWith('dm-')) {
    const kind = mapperKind(host, name);
    if (kind === 'LVM') return [`lvchange --activate n ${volumeOf(mapper)}`];
    if (kind === 'dm-crypt') return [`cryptsetup close ${mapper}`];
    return [kind === 'multipath' ? `multipath -f ${mapper}` : `dmsetup remove ${mapper}`];
  }
  if (/^loop\d+$/.test(name)) return [`losetup --detach /dev/${name}`];
  return /^md\d+$/.test(name) ? [`mdadm --stop /dev/${name}`] : [];
}

/** "vg--one-lv" is "vg-one/lv": the mapper's names join the two with a hyphen, and double their own (lvm(8)). */
function volumeOf(mapper: string): string {
  const [, group = mapper, volume = ''] = /^((?:[^-]|--)+)-((?:[^-]|--)+)/.exec(mapper) ?? [];
  return `${group}/${volume}`.replaceAll('--', '-');
}

function aliasesOf(host: HostTree, name: string): string[] {
  const mapper = mapperName(host, name);
  return [`/dev/${name}`, ...(mapper === '' ? [] : [`/dev/mapper/${mapper}`])];
}

/** It opens every block device for a moment, to see what is on it. */
const isUdev = (holder: string): boolean => /\((?:systemd-udevd|\(udev-worker\))\)$/.test(holder);

interface Mount {
  /** "259:2"; empty: the table does not say. */
  device: string;
  source: string;
  target: string;
}

/** Of this process' mount namespace, and of the others for what is in none of its own: a container may have a disk to itself. */
class MountTables {
  readonly #host: HostTree;
  readonly #own: Mount[];
  #others: Map<string, Mount[]> | undefined;

  constructor(host: HostTree) {
    this.#host = host;
    const named = lines(host, '/proc/mounts').map(([source = '', target = '']) => {
      return { device: '', source, target: unescaped(target) };
    });
    this.#own = [...named, ...mountInfo(host, 'self')];
  }

  /** Where a block device is mounted, each place once, with the command that ends it. */
  of(aliases: readonly string[], numbers: string): { target: string; umount: string }[] {
    const targetsIn = (table: readonly Mount[]): string[] => [
      ...new Set(
        table
          .filter(({ device, source }) => aliases.includes(source) || (numbers !== '' && device === numbers))
          .map(({ target }) => target),
      ),
    ];
    const own = targetsIn(this.#own)
      // What is mounted below another goes first.
      .sort((a, b) => b.length - a.length)
      .map((target) => ({ target, umount: target === '/' ? OTHER_ROOT : `umount ${quoted(target)}` }));
    if (own.length > 0) return own;
    this.#others ??= this.#read();
    return [...this.#others].flatMap(([pid, table]) =>
      targetsIn(table).map((target) => ({
        target: `${target} of process ${pid}`,
        umount: `umount --namespace ${pid} ${quoted(target)}`,
      })),
    );
  }

  /** One table a mount namespace, by the first process in it. */
  #read(): Map<string, Mount[]> {
    const host = this.#host;
    const seen = new Set([host.link('/proc/self/ns/mnt')]);
    const pids = host.entries('/proc').filter((name) => /^\d+$/.test(name));
    const first = pids.filter((pid) => {
      const namespace = host.link(`/proc/${pid}/ns/mnt`);
      if (seen.has(namespace)) return false;
      seen.add(namespace);
      return namespace !== undefined;
    });
    return new Map(first.map((pid) => [pid, mountInfo(host, pid)]));
  }
}

/** proc_pid_mountinfo(5): "36 35 98:0 /root /target options optional… - type source options". */
function mountInfo(host: HostTree, pid: string): Mount[] {
  return lines(host, `/proc/${pid}/mountinfo`).map((words) => ({
    device: words[2] ?? '',
    source: words[words.indexOf('-') + 2] ?? '',
    target: unescaped(words[4] ?? ''),
  }));
}

const unescaped = (path: string): string =>
  path.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8)));

/** For a shell. */
const quoted = (path: string): string =>
  /^[\w./:@+-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;

function lines(host: HostTree, path: string): string[][] {
  return (host.text(path) ?? '')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([first]) => first !== '');
}

/** Its interfaces, and what they are part of, each with what carries it. */
function networkUses(host: HostTree, address: string): HostUse[] {
  const at = `${PCI_DEVICES}/${address}/net`;
  const own = host.entries(at);
  if (own.length === 0) {
    // The directory has the interfaces of this network namespace only.
    return host.exists(at)
      ? [
          {
            what: 'its network interface is in another network namespace, of a container or a program',
            end: ['end what has it (lsns --type net names the namespaces)'],
          },
        ]
      : [];
  }
  const routed = addressedInterfaces(host);
  const four = defaultOfIpv4(host);
  const six = defaultOfIpv6(host);
  return own.flatMap((name) =>
    interfaceStacks(host, [name]).flatMap((stack): HostUse[] => {
      const [top = ''] = stack;
      const over = stack.join(' on ');
      const part = partsWith(host, stack);
      if (four.has(top) || six.has(top)) {
        const family = four.has(top) ? '' : '-6 ';
        // The last address takes every route of the interface with it.
        const flush = routed.has(top)
          ? `ip address flush dev ${top}`
          : `ip ${family}route delete default dev ${top}`;
        return [{ what: `the default route, over ${over}`, end: part.length > 0 ? part : [flush] }];
      }
      if (routed.has(top))
        return [
          { what: `addresses of ${over}`, end: part.length > 0 ? part : [`ip address flush dev ${top}`] },
        ];
      return stack.length > 1 && interfacesAbove(host, top).length === 0 ? [{ what: over, end: part }] : [];
    }),
  );
}

function interfacesAbove(host: HostTree, name: string): string[] {
  return host
    .entries(`${NET}/${name}`)
    .filter((entry) => entry.startsWith('upper_'))
    .map((entry) => entry.slice('upper_'.length));
}

function interfaceStacks(host: HostTree, stack: Stack): Stack[] {
  const [top = ''] = stack;
  const above = interfacesAbove(host, top).filter((name) => !stack.includes(name));
  return [...above.flatMap((name) => interfaceStacks(host, [name, ...stack])), stack];
}

/** Leaving a bond, bridge or team; a VLAN or macvlan is made of its interface, and goes. */
function partsWith(host: HostTree, stack: Stack): string[] {
  const [above, lowest] = stack.slice(-2);
  if (above === undefined || lowest === undefined) return [];
  return linkName(host, `${NET}/${lowest}/master`) === above
    ? [`ip link set dev ${lowest} nomaster`]
    : [`ip link delete dev ${above}`];
}

const IPV6_ANY = '0'.repeat(32);

function defaultOfIpv4(host: HostTree): Set<string> {
  return new Set(
    lines(host, '/proc/net/route').flatMap(([name = '', destination]) =>
      destination === '00000000' ? [name] : [],
    ),
  );
}

/** Where there is none, the kernel has one of its own that leads nowhere, over lo. */
function defaultOfIpv6(host: HostTree): Set<string> {
  return new Set(
    lines(host, '/proc/net/ipv6_route').flatMap((words) => {
      const name = words.at(-1) ?? '';
      return words[0] === IPV6_ANY && words[1] === '00' && name !== 'lo' ? [name] : [];
    }),
  );
}

/** A network that is reached without a gateway is one that an address is in; of IPv6, addresses that are not the link's own. */
function addressedInterfaces(host: HostTree): Set<string> {
  const four = lines(host, '/proc/net/route').flatMap(([name = '', destination, gateway]) =>
    gateway === '00000000' && destination !== '00000000' ? [name] : [],
  );
  const six = lines(host, '/proc/net/if_inet6').flatMap(([, , , scope, , name = '']) =>
    scope === '00' ? [name] : [],
  );
  return new Set([...four, ...six]);
}
