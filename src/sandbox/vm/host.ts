/** The machine as the vm wall sees it. */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import { hasThread } from '../../base/proc.ts';
import { cgroupLayout } from '../../cgroups/index.ts';
import { addon } from '../../native/index.ts';
import { Launcher } from '../../native/launcher.ts';
import type { Spec } from '../../oci/types.ts';
import { readHostFacts } from '../host.ts';
import type { VmHost } from './backend.ts';
import { hostTree } from '../../devices/host_tree.ts';
import { findGuest, guestProgram } from '../../guest/index.ts';
import { probeAndClean } from './agent_probe.ts';
import { chooseChannel, newCid, VSOCK_ARGUMENT } from './channel.ts';
import { launchBuilder } from './builder.ts';
import { TemplateStore } from './hypervisor/qemu/template.ts';
import type { Pod, SizedMachine } from './sandbox_deps.ts';
import { VHOST_VSOCK } from './hypervisor/agent_socket.ts';
import { kvmGroups, machineCredentials } from './hypervisor/credentials.ts';
import type { VmConfig } from './config.ts';
import type { Accelerator, GuestImage, MachineConfig, MachineDevice } from './hypervisor/hypervisor.ts';
import { chooseAccelerator, hostAccelerators, type AcceleratorHost } from './hypervisor/qemu/accelerator.ts';
import { QemuHypervisor } from './hypervisor/qemu/driver.ts';
import { needsIommu } from './guest_vfio.ts';
import { hugePageBytes, placed } from './placement.ts';
import { kataGuest } from './kata/guest.ts';
import type { AgentInput, PodAgent } from './pod_agent.ts';
import { machineSize, memoryFor, templateSize } from './sizing.ts';

/** How many devices can be plugged into a machine that runs. */
const PORTS = 8;
const DEFAULT_OPEN_FILES = 1_000_000;
/** TCG_PHYS_ADDR_BITS of QEMU's target/i386. */
const TCG_PHYSICAL_BITS = 40;

/** What machines are made with; opened when the first one is asked for. */
interface Machinery {
  hypervisor: QemuHypervisor;
  templates: TemplateStore;
  /** Decided once: trying KVM takes time. */
  accelerator: Promise<Accelerator>;
}

/**
 * @param root the engine's state root
 * @param agent that guests have; undefined: our own
 */
export function vmHost(
  config: VmConfig,
  root: string,
  log: Logger,
  agent?: (input: AgentInput) => PodAgent,
): VmHost {
  let made: Machinery | undefined;
  const open = (): Machinery => {
    checkPrograms(config);
    return (made ??= machinery(config, log));
  };
  return {
    top: join(root, 'vm'),
    rootDevice: config.rootDevice,
    get images() {
      return addon();
    },
    sandbox: {
      agent,
      hypervisor: () => open().hypervisor,
      machineConfig: (id, spec, pod) => machineConfig(config, { id, spec, pod, log, machinery: open() }),
      memoryFor: (limit) => ({ mib: memoryFor([limit], config), largest: config.maxMemoryMib }),
      discardTemplate: (machine) => open().templates.discard(machine),
      layout: () => cgroupLayout(),
      shareDaemon: config.virtiofsd,
      openFiles: openFiles(),
      lockLimit: lockLimit(),
      emulated: async () => (await open().accelerator) === 'tcg',
      physicalBits: async () => ((await open().accelerator) === 'tcg' ? TCG_PHYSICAL_BITS : undefined),
      bootDeadlineMs: config.bootTimeoutMs,
      network: () => addon(),
      setAffinity: (tid, mask) => addon().setAffinity(tid, mask),
      mkfifo: (path, mode) => addon().mkfifo(path, mode),
      isThread: hasThread,
      log,
    },
  };
}

function machinery(config: VmConfig, log: Logger): Machinery {
  const { qemu: program, cache, bootTimeoutMs: bootDeadlineMs } = config;
  const launcher = new Launcher(guestProgram('bulkhead-init'));
  const hypervisor = new QemuHypervisor({ program, addon: addon(), launcher, pinDeadlineMs: bootDeadlineMs });
  const templates = new TemplateStore({
    cache,
    hypervisor,
    addon: addon(),
    launch: (launch) => launchBuilder(launcher, launch),
    probe: (launch, deadlineMs) => probeAndClean(launch.agent.path, 'template', deadlineMs),
    log,
    bootDeadlineMs,
  });
  const host = hostAccelerators({ program, launcher, addon: addon() });
  return { hypervisor, templates, accelerator: choose(config.accelerator, host, log) };
}

async function choose(
  wanted: VmConfig['accelerator'],
  host: AcceleratorHost,
  log: Logger,
): Promise<Accelerator> {
  const { accelerator, reason } = await chooseAccelerator(wanted, host);
  if (accelerator === 'kvm') log.info('virtual machines run on KVM', { reason });
  else log.warning('virtual machines are emulated by TCG, which is slow', { reason });
  return accelerator;
}

interface MachineInput {
  id: string;
  spec: Spec;
  pod: Pod;
  log: Logger;
  machinery: Machinery;
}

async function machineConfig(config: VmConfig, input: MachineInput): Promise<SizedMachine> {
  const { id, spec, pod, log, machinery: made } = input;
  const size = machineSize(id, spec, config, availableParallelism());
  const accelerator = await made.accelerator;
  const gids = accelerator === 'kvm' ? kvmGroups() : [];
  const guest = guestOf(config, id);
  const machine: MachineConfig = {
    id: id.slice(0, 64),
    dir: pod.dir,
    credentials: machineCredentials(pod.namespace, pod.group, gids),
    image: guest.image,
    devices: guest.devices,
    size,
    type: config.machine,
    accelerator,
    tcgCacheMib: config.tcgCacheMib,
    sharedMemory: pod.share,
    ports: PORTS,
    vsockCid: guest.vsock ? newCid() : undefined,
  };
  // A saved guest has given its windows away already, and each function locks the whole of its machine's memory: it boots.
  if (pod.functions.length > 0) {
    const warn = (reason: string): void =>
      log.warning('devices, processors and memory are far apart', { id, reason });
    const hugePage = hugePageBytes(config.hugePages);
    const placement = placed(hostTree(), { id, spec, functions: pod.functions, size, hugePage }, warn);
    const iommu = needsIommu(id, spec, pod.functions, config) ? { iommu: true } : {};
    return { machine: { ...machine, functions: pod.functions, placement, ...iommu }, growMib: 0 };
  }
  if (!config.template || config.machine !== 'q35' || config.agent === 'kata') return { machine, growMib: 0 };
  const { size: initial, growMib } = templateSize(size, config);
  const small: MachineConfig = { ...machine, size: initial };
  try {
    const template = await made.templates.ensure(small);
    return { machine: { ...small, template }, growMib };
  } catch (error) {
    log.warning('no template: the machine boots', { id, error: (error as Error).message });
    return { machine, growMib: 0 };
  }
}

/** What a machine boots, and the disk that it does from. */
function guestOf(
  config: VmConfig,
  id: string,
): { image: GuestImage; devices?: readonly MachineDevice[] | undefined; vsock: boolean } {
  const vsock = chooseChannel(id, config, existsSync(VHOST_VSOCK)) === 'vsock';
  if (config.agent === 'bulkhead') {
    const image = guestImage(config, id);
    return { image: vsock ? { ...image, commandLine: VSOCK_ARGUMENT } : image, vsock };
  }
  for (const path of [config.kernel, config.image, config.initrd]) {
    if (path === '' || existsSync(path)) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `guest ${path}`,
      reason: 'no such file or directory',
      remedy: 'name the files of a Kata release in [vm] of the configuration',
    });
  }
  return { ...kataGuest(config), vsock };
}

function guestImage(config: VmConfig, id: string): GuestImage {
  const { kernel, initrd } = config;
  if (kernel === '' && initrd === '') return findGuest({ cache: config.cache }, 'create', id);
  for (const [what, path] of Object.entries({ kernel, initrd })) {
    if (path !== '' && existsSync(path)) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `guest ${what}${path === '' ? '' : ` ${path}`}`,
      reason: path === '' ? 'is not configured, and only both can be' : 'no such file or directory',
      remedy: 'make a guest with `bulkhead guest build` and configure none',
    });
  }
  return { kernel, initrd };
}

function checkPrograms({ qemu, virtiofsd }: VmConfig): void {
  for (const path of [qemu, virtiofsd]) {
    if (existsSync(path)) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      object: path,
      reason: 'no such file or directory',
      remedy: 'install qemu-system-x86 (Debian), or name the program in [vm] of the configuration',
    });
  }
}

/** As many as this process may pass on. */
function openFiles(): number {
  const { canRaiseLimits, hardLimits = {} } = readHostFacts();
  const hard = hardLimits['RLIMIT_NOFILE'] ?? DEFAULT_OPEN_FILES;
  return canRaiseLimits || hard < 0 ? DEFAULT_OPEN_FILES : hard;
}

/** Highest RLIMIT_MEMLOCK that this process may pass on, in bytes; undefined: any. */
function lockLimit(): number | undefined {
  const { canRaiseLimits, hardLimits = {} } = readHostFacts();
  const hard = hardLimits['RLIMIT_MEMLOCK'] ?? -1;
  return canRaiseLimits || hard < 0 ? undefined : hard;
}
