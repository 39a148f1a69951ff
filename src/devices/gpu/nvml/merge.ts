/** Puts what NVML says beside what /proc says. Pure. */
import type { Machine } from '../../model.ts';
import { pciAddress, probeNvidia, type MigInstance, type NvidiaDriver } from '../nvidia.ts';
import type { NvmlAnswer } from './ask.ts';
import type { NvmlMig } from './facts.ts';

/** Whether /proc leaves something open: UUIDs of MIG devices, or how GPUs are connected. */
export function needsNvml({ host }: Pick<Machine, 'host'>): boolean {
  const driver = probeNvidia(host);
  return driver !== undefined && (driver.gpus.length > 1 || driver.gpus.some(({ mig }) => mig.length > 0));
}

export interface Merged {
  driver: NvidiaDriver;
  /** Why there is nothing of NVML in it; undefined: there is, or nobody asked. */
  unavailable: string | undefined;
}

/** What is of another driver than the loaded one is left out as a whole, and so are GPUs that /proc does not have. */
export function withNvml(driver: NvidiaDriver, answer: NvmlAnswer | undefined): Merged {
  if (answer === undefined) return { driver, unavailable: undefined };
  if ('unavailable' in answer) return { driver, unavailable: answer.unavailable };
  const { facts } = answer;
  if (facts.driver !== driver.version)
    return { driver, unavailable: `it is of driver ${facts.driver}, and ${driver.version} is loaded` };
  const known = new Map(facts.gpus.map((gpu) => [pciAddress(gpu.bus), gpu]));
  return {
    unavailable: undefined,
    driver: {
      ...driver,
      gpus: driver.gpus.map((gpu) => ({ ...gpu, mig: named(gpu.mig, known.get(gpu.address)?.mig ?? []) })),
      links: facts.links.map(({ pair: [one, other], level }) => ({
        pair: [pciAddress(one), pciAddress(other)],
        level,
      })),
    },
  };
}

/** All of a GPU's instances or none: numbers of NVML and positions do not mix. */
function named(instances: MigInstance[], told: readonly NvmlMig[]): MigInstance[] {
  const all = instances.flatMap((mig): MigInstance[] => {
    const same = ({ gpuInstance, computeInstance }: NvmlMig): boolean =>
      gpuInstance === mig.gpuInstance && computeInstance === mig.computeInstance;
    const { index, uuid } = told.find(same) ?? {};
    return index === undefined || uuid === undefined ? [] : [{ ...mig, index, uuid }];
  });
  return all.length === instances.length ? all : instances;
}
