/**
 * Checks of config.json beyond the shape of its values, one small function each. A check calls `refuse` with the
 * field and one clause; the first refusal ends the validation. They look at nothing but the configuration: what
 * depends on the host is checked by the plan compiler (HostFacts) or found out by the kernel.
 */
import type { ParsedSpec } from '../types.ts';
import {
  checkDevices,
  checkHooks,
  checkMemory,
  checkPersonality,
  checkRoot,
  checkVersion,
} from './checks_container.ts';
import { checkBindOptions, checkIdMappedMounts, checkMountTargets } from './checks_mounts.ts';
import {
  checkIdMaps,
  checkNamespaces,
  checkSysctls,
  checkTimeOffsets,
  checkUts,
} from './checks_namespaces.ts';
import { checkProcess } from './checks_process.ts';
import { checkSeccomp } from './checks_seccomp.ts';

/** Ends the validation: `field` as in "linux.namespaces[2].type". */
export type Refuse = (field: string, reason: string, remedy?: string) => never;
export type Check = (spec: ParsedSpec, refuse: Refuse) => void;

export const checks: readonly Check[] = [
  checkVersion,
  (spec, refuse) => checkProcess(spec.process, 'process.', refuse),
  checkRoot,
  checkNamespaces,
  checkIdMaps,
  checkUts,
  checkTimeOffsets,
  checkSysctls,
  checkMountTargets,
  checkBindOptions,
  checkIdMappedMounts,
  checkDevices,
  checkMemory,
  checkHooks,
  checkSeccomp,
  checkPersonality,
];
