/** Why a GPU cannot be shared with a container by the host's driver. To a virtual machine it goes by VFIO (vfio/checks.ts). */
import type { SpecFile } from '../cdi/registry.ts';
import type { HostTree } from '../host_tree.ts';
import { holdersOf } from '../machine.ts';
import { isStuck, UNRESPONSIVE, type Check, type Refusal } from '../model.ts';
import { rebind } from '../remedies.ts';
import { claimRefusal, endHolders, subjectOf } from '../vfio/checks.ts';
import { sharingDrivers, type GpuDevice, type GpuFacts } from './probe.ts';

/** A GPU with what the checks need beside it. */
export interface GpuSubject extends GpuDevice {
  facts: GpuFacts;
  /** Spec files of the host. */
  specs: readonly SpecFile[];
}

const cannot = ({ pci }: GpuSubject): string => `${subjectOf(pci)}: cannot share it with a container`;

export const gpuSharingChecks: readonly Check<GpuSubject>[] = [
  {
    name: 'unresponsive',
    walls: ['namespace'],
    look: (gpu, machine) =>
      isStuck(machine, gpu.pci.address)
        ? { sentence: `${cannot(gpu)}: ${UNRESPONSIVE.reason}`, fix: UNRESPONSIVE.fix }
        : undefined,
  },
  {
    name: 'claimed',
    walls: ['namespace'],
    look: (gpu, machine) => claimRefusal(machine, { pci: gpu.pci, companions: [] }, cannot(gpu)),
  },
  {
    name: 'driver-missing',
    walls: ['namespace'],
    look: (gpu, { host, claims = [] }) => {
      if (gpu.shared || claims.some(({ address }) => address === gpu.pci.address)) return undefined;
      const wanted = gpu.nvSwitch ? ['nvidia-nvswitch'] : sharingDrivers[gpu.vendor];
      if (wanted.length === 0)
        return {
          sentence: `${cannot(gpu)}: no driver for this maker’s GPUs is known`,
          fix: `pass it whole: --device bulkhead.io/vfio=${gpu.pci.address}`,
        };
      const bound = gpu.pci.driver === '' ? 'no driver is bound' : `it is bound to ${gpu.pci.driver}`;
      const [driver = ''] = wanted;
      return {
        sentence: `${cannot(gpu)}: ${bound}, not to ${wanted.join(' or ')}`,
        fix:
          gpu.pci.driver === ''
            ? `modprobe ${gpu.vendor === 'nvidia' ? `nvidia${signedOnly(host)}` : driver}`
            : rebind(gpu.pci, ''),
      };
    },
  },
  {
    name: 'node-missing',
    walls: ['namespace'],
    look: (gpu, { host }) => {
      // One that does not answer has not said its number.
      if (gpu.nvidia === undefined || gpu.nvidia.minor < 0) return undefined;
      const path = `/dev/nvidia${gpu.nvidia.minor}`;
      return host.node(path) === undefined
        ? {
            sentence: `${cannot(gpu)}: ${path} is not there`,
            fix: `nvidia-modprobe -c ${gpu.nvidia.minor} -u`,
          }
        : undefined;
    },
  },
  {
    name: 'uvm-missing',
    walls: ['namespace'],
    look: (gpu) =>
      gpu.nvidia === undefined || gpu.facts.nvidia?.majors['nvidia-uvm'] !== undefined
        ? undefined
        : {
            sentence: `${cannot(gpu)}: nvidia-uvm is not loaded; CUDA would fail`,
            fix: 'nvidia-modprobe -u',
          },
  },
  {
    name: 'fabric-manager',
    walls: ['namespace'],
    look: (gpu, { host }) =>
      gpu.nvidia === undefined ||
      !gpu.facts.devices.some(({ nvSwitch }) => nvSwitch) ||
      fabricManagerRuns(host)
        ? undefined
        : {
            sentence: `${cannot(gpu)}: this machine has NVSwitches and the fabric manager does not run; CUDA would fail`,
            fix: 'systemctl start nvidia-fabricmanager',
          },
  },
  {
    name: 'cdi-stale',
    walls: ['namespace'],
    look: (gpu) => {
      const loaded = gpu.facts.nvidia?.version;
      if (gpu.nvidia === undefined || loaded === undefined) return undefined;
      const [stale] = staleSpecs(gpu.specs, loaded);
      return stale === undefined ? undefined : staleSpec(stale, loaded);
    },
  },
];

/** A kernel that is locked down loads signed modules only, and NVIDIA's are built on the machine ("none [integrity] …"). */
function signedOnly(host: HostTree): string {
  const state = host.text('/sys/kernel/security/lockdown') ?? '[none]';
  return state.includes('[none]')
    ? ''
    : ' (the kernel is locked down: the module must be signed with a key of mokutil --list-enrolled)';
}

/** Its socket is elsewhere where the driver is a container's (NVIDIA's operator): then the process tells. */
function fabricManagerRuns(host: HostTree): boolean {
  // comm has 15 characters (proc_pid_comm(5)).
  const isIt = (pid: string): boolean => host.text(`/proc/${pid}/comm`) === 'nv-fabricmanage';
  return (
    host.exists('/run/nvidia-fabricmanager/socket') ||
    host.entries('/proc').some((name) => /^\d+$/.test(name) && isIt(name))
  );
}

/** What takes a GPU to a virtual machine beyond VFIO's own checks. */
export const gpuVmChecks: readonly Check<GpuSubject>[] = [
  {
    name: 'in-use',
    walls: ['vm'],
    look: (gpu, machine) => {
      const own = gpu.nvidia === undefined ? [] : [`/dev/nvidia${gpu.nvidia.minor}`];
      const holders = holdersOf(machine, [...own, ...gpu.drmNodes]);
      if (holders.length === 0) return undefined;
      return {
        sentence: `${subjectOf(gpu.pci)}: device is in use by process ${holders.join(', ')}; unbinding would block until it is closed`,
        fix: endHolders(holders),
      };
    },
  },
];

export function staleSpec(
  { path, version }: { path: string; version: string },
  loaded: string,
): Omit<Refusal, 'check'> {
  return {
    sentence: `CDI spec ${path} is for driver ${version} but ${loaded} is loaded; regenerate`,
    fix: `bulkhead devices cdi generate --kind nvidia.com/gpu --output ${path}`,
  };
}

/** Spec files of NVIDIA GPUs whose libraries are of another driver than the loaded one. */
export function staleSpecs(specs: readonly SpecFile[], loaded: string): { path: string; version: string }[] {
  return specs
    .filter(({ spec }) => spec.kind === 'nvidia.com/gpu')
    .flatMap(({ path, spec }) => {
      const mounts = spec.containerEdits?.mounts ?? [];
      const version = mounts
        .map(({ hostPath }) => /\/lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)?)$/.exec(hostPath)?.[1])
        .find((found) => found !== undefined);
      return version === undefined || version === loaded ? [] : [{ path, version }];
    });
}
