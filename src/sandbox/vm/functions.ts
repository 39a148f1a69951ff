/**
 * PCI functions of the host in a pod's guest: how many bytes of windows they need, where the guest has them, and what a
 * container is told of that. The guest's own kernel drives them, or a program of the container (guest_vfio.ts). Pure, but
 * for what is asked of the agent.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { OpenedFunctions } from '../passing.ts';
import type { LinuxDevice, LinuxDeviceCgroup, Process, Spec } from '../../oci/types.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import { vfioEnvironment } from '../../devices/vfio/contribute.ts';
import type { GuestAgent } from './agent.ts';
import { bindInGuest, isPciAddress, withHostRights, withLockedMemory } from './guest_vfio.ts';
import type { Hypervisor, MachineConfig, PassedFunction } from './hypervisor/hypervisor.ts';

type IDevice = bulkhead.agent.v1.IDevice;

const DISPLAY = 0x03;
const NVME = 0x0108;
const MIB = 2 ** 20;
/** Devices map more than the guest's memory: firmware, and other devices' memory. */
const LOCKED_OVERHEAD_MIB = 64;
const ADDRESSES = /[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/g;
const NVME_NAME = /^nvme\d{1,4}$/;
const DRIVER_DEADLINE_MS = 10_000;

/** For the hypervisor's configuration. */
export function passedFunctions({ devices, nodes }: OpenedFunctions): PassedFunction[] {
  return devices.map(({ pci }) => {
    const { group, device } = nodes.find(({ address }) => address === pci.address) ?? {};
    const sum = (large: boolean): number =>
      pci.bars.filter((bar) => bar.large === large).reduce((total, { size }) => total + size, 0);
    return {
      address: pci.address,
      // Where both are there, groups: every QEMU that has VFIO knows them.
      group,
      device: group === undefined ? device : undefined,
      memoryWindow: sum(false),
      prefetchWindow: sum(true),
      rom: pci.class >> 16 === DISPLAY,
      class: pci.class,
      node: pci.numaNode,
    };
  });
}

/**
 * All of a guest's memory is locked when a device may write to it; VFIO counts it against RLIMIT_MEMLOCK, behind an IOMMU of
 * the guest once for each function, whose addresses are its own.
 * @param limit the highest that can be given, in bytes; undefined: any
 * @throws RuntimeError FailedPrecondition when that is too little
 */
export function checkLockedMemory(
  id: string,
  { functions = [], size, iommu }: Pick<MachineConfig, 'functions' | 'size' | 'iommu'>,
  limit: number | undefined,
): void {
  const times = iommu === true ? functions.length : 1;
  const needed = size.memoryMib * times + LOCKED_OVERHEAD_MIB;
  if (functions.length === 0 || limit === undefined || limit >= needed * MIB) return;
  throw refused(
    id,
    functions.map(({ address }) => address),
    `a guest of ${size.memoryMib} MiB needs RLIMIT_MEMLOCK of ${needed} MiB, and it is ${Math.floor(limit / MIB)} MiB and cannot be raised without CAP_SYS_RESOURCE`,
    'raise LimitMEMLOCK of the service that starts containers',
  );
}

export function tooLate(id: string, addresses: readonly string[]): RuntimeError {
  return refused(
    id,
    addresses,
    'the pod’s machine runs already, and takes functions of the host only when it starts',
    'ask for them with the pod’s first container',
  );
}

function refused(id: string, addresses: readonly string[], reason: string, remedy: string): RuntimeError {
  const object = `device ${addresses.join(', ')}`;
  return new RuntimeError({ code: ErrorCode.FailedPrecondition, op: 'create', id, object, reason, remedy });
}

/** A function as the guest has it. */
export interface GuestFunction {
  /** On the host, and in the guest: "0000:41:00.0", "0000:09:00.0". */
  host: string;
  guest: string;
  /** The guest's nodes for it. */
  nodes: LinuxDevice[];
  /** A program of the container drives it, by these nodes. */
  vfio?: boolean | undefined;
  /** Then its group's node on the host. */
  hostGroup?: string | undefined;
}

/** All of a machine's functions, as its guest has found them: whoever is told of one may use it at once. */
export async function awaitFunctions(
  agent: Pick<GuestAgent, 'call' | 'waitDevice' | 'refuse'>,
  id: string,
  config: MachineConfig,
  hypervisor: Pick<Hypervisor, 'functionPaths'>,
  warn: (message: string) => void,
): Promise<GuestFunction[]> {
  const { functions = [] } = config;
  if (functions.length === 0) return [];
  const paths = hypervisor.functionPaths(config);
  if (config.iommu === true) return bindInGuest(agent, id, functions, paths);
  return Promise.all(
    functions.map((each, index) => awaitFunction(agent, id, each, paths[index] ?? '', warn)),
  );
}

/**
 * Waits until the guest has found the function at `path` ("05.0/00.0"), and for a disk until its driver has made it.
 * @param warn told when the guest's kernel has no driver for it
 */
export async function awaitFunction(
  agent: Pick<GuestAgent, 'call' | 'waitDevice' | 'refuse'>,
  id: string,
  { address, class: code }: PassedFunction,
  path: string,
  warn: (message: string) => void,
): Promise<GuestFunction> {
  const found = await agent.waitDevice(id, { pciPath: path });
  const guest = (found.sysfs ?? '').split('/').at(-1);
  if (!isPciAddress(guest))
    throw agent.refuse('create', id, `device ${address}`, 'tells of a function that there cannot be');
  const nodes = code >> 8 === NVME ? await diskNodes(agent, id, path, address, warn) : [];
  return { host: address, guest, nodes };
}

/**
 * The controller's name is what the guest's PCI path leads to; its first namespace is a disk of that name, wherever the
 * kernel has it in sysfs (with CONFIG_NVME_MULTIPATH that is not below the function).
 */
async function diskNodes(
  agent: Pick<GuestAgent, 'call'>,
  id: string,
  path: string,
  address: string,
  warn: (message: string) => void,
): Promise<LinuxDevice[]> {
  const wait = async (device: bulkhead.agent.v1.IDeviceMatch): Promise<IDevice> => {
    const waitDevice = { device, timeoutMs: DRIVER_DEADLINE_MS };
    const reply = await agent.call('create', id, { waitDevice }, 2 * DRIVER_DEADLINE_MS);
    return reply.device ?? {};
  };
  try {
    const { name } = await wait({ pciPath: path, subsystem: 'nvme' });
    if (!NVME_NAME.test(name ?? '')) throw new Error('it has no name that a disk can have');
    const node = blockNode(await wait({ path: `/dev/${name}n1` }));
    if (node.path !== `/dev/${name}n1`) throw new Error('it is not where it was looked for');
    return [node];
  } catch (error) {
    warn(`${address}: the guest shows no disk of it: ${(error as Error).message}`);
    return [];
  }
}

function blockNode({ path, major, minor }: IDevice): LinuxDevice {
  return { path: path ?? '', type: 'b', major: major ?? 0, minor: minor ?? 0, fileMode: 0o660 };
}

/** Variables of SR-IOV's device plugin hold the host's addresses: those of the guest in their place. */
export function guestVariables(env: readonly string[], functions: readonly GuestFunction[]): string[] {
  const guest = new Map(functions.map((each) => [each.host, each.guest]));
  return env.map((variable) =>
    variable.startsWith('PCIDEVICE_')
      ? variable.replace(ADDRESSES, (address) => guest.get(address) ?? address)
      : variable,
  );
}

/** A process of a container that has the functions: its variables, and the memory that it may lock. */
export function withGuestVariables(given: Process, functions: readonly GuestFunction[]): Process {
  const { env } = given;
  const told = env === undefined ? given : { ...given, env: guestVariables(env, functions) };
  return functions.length === 0 ? given : withLockedMemory(told, functions);
}

/** What the container's configuration asked for, in the host's terms. */
export interface AskedFunctions {
  /** Addresses by which it named functions. */
  named?: readonly string[];
  /** VFIO nodes of its config.json. */
  nodes?: readonly LinuxDevice[];
}

/** The container's configuration in the guest: its variables, and the guest's nodes with the right to use them. */
export function withGuestFunctions(
  spec: Spec,
  functions: readonly GuestFunction[],
  { named = [], nodes: given = [] }: AskedFunctions = {},
): Spec {
  if (functions.length === 0) return spec;
  const all = functions.flatMap((each) => withHostRights(each, given));
  const nodes = [...new Map(all.map((node) => [node.path, node])).values()];
  const { linux = {} } = spec;
  const { resources = {} } = linux;
  return {
    ...spec,
    ...(spec.process === undefined ? {} : { process: toldNames(spec.process, functions, named) }),
    linux: {
      ...linux,
      devices: [...(linux.devices ?? []), ...nodes],
      resources: { ...resources, devices: [...(resources.devices ?? []), ...nodes.map(nodeRule)] },
    },
  };
}

/** As in the namespace wall a program is told which functions it drives, by the addresses that they have there. */
function toldNames(given: Process, functions: readonly GuestFunction[], named: readonly string[]): Process {
  const told = withGuestVariables(given, functions);
  const own = functions.filter(({ host, vfio }) => vfio === true && named.includes(host));
  if (own.length === 0) return told;
  const variable = vfioEnvironment(own.map(({ guest }) => guest));
  const name = variable.slice(0, variable.indexOf('=') + 1);
  return { ...told, env: [...(told.env ?? []).filter((each) => !each.startsWith(name)), variable] };
}

/** VFIO nodes are opened and spoken to, never made anew. */
function nodeRule({ type, major, minor }: LinuxDevice): LinuxDeviceCgroup {
  return {
    allow: true,
    type,
    access: type === 'c' ? 'rw' : 'rwm',
    ...(major === undefined ? {} : { major }),
    ...(minor === undefined ? {} : { minor }),
  };
}
