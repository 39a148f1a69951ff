/** Limits and scheduling of one process: rlimits, OOM score, priorities, CPU affinity, personality. */
import { parseCpuList } from '../oci/cpu_list.ts';
import { RLIMITS } from '../oci/rlimits.ts';
import { ioPriorityClasses, schedulerFlags, schedulerPolicies } from '../oci/scheduling.ts';
import type { LinuxPersonality, PosixRlimit, Process } from '../oci/types.ts';
import type { HostFacts, Step, Warn } from './inputs.ts';

/** Two's complement of RLIM_INFINITY: protobuf's uint64 writer takes it, and 2^64-1 is no JavaScript number. */
const INFINITY = -1;

/** JSON.parse rounds 2^64-1 up to 2^64. Nothing that large is meant as anything but "no limit". */
function limitValue(value: number): number {
  return value >= 2 ** 63 ? INFINITY : value;
}

interface LimitsContext {
  process: Process;
  host: HostFacts;
  warn: Warn;
  inUserNamespace: boolean;
}

/**
 * In the outer stage, because it needs rights of the initial user namespace: the OOM score, and hard limits above
 * the launcher's own. (All else about limits comes late: a low limit could hit the set-up itself.)
 */
export function earlyLimits({ process, host, warn, inUserNamespace }: LimitsContext): Step[] {
  const steps: Step[] = [];
  if (process.oomScoreAdj !== undefined) {
    const bestEffort = !host.canRaiseLimits || host.unprivileged === true;
    steps.push({ oomScoreAdj: { value: process.oomScoreAdj, bestEffort } });
  }
  if (!inUserNamespace || !host.canRaiseLimits) return steps;
  for (const rlimit of grantable(process.rlimits, host, warn)) {
    if (!raises(rlimit, host)) continue;
    const hard = limitValue(rlimit.hard);
    steps.push({ rlimit: { resource: RLIMITS.get(rlimit.type), soft: hard, hard } });
  }
  return steps;
}

export function rlimits({ process, host, warn }: LimitsContext): Step[] {
  return grantable(process.rlimits, host, warn).map(({ type, soft, hard }) => ({
    rlimit: { resource: RLIMITS.get(type), soft: limitValue(soft), hard: limitValue(hard) },
  }));
}

function raises({ type, hard }: PosixRlimit, { hardLimits }: HostFacts): boolean {
  const present = hardLimits?.[type];
  if (present === undefined || present === INFINITY) return false;
  const wanted = limitValue(hard);
  return wanted === INFINITY || wanted > present;
}

/** Without CAP_SYS_RESOURCE a hard limit above the launcher's own is brought down to it, and said. */
function grantable(limits: readonly PosixRlimit[] = [], host: HostFacts, warn: Warn): PosixRlimit[] {
  return limits.map((limit) => {
    if (host.canRaiseLimits || !raises(limit, host)) return limit;
    const hard = host.hardLimits?.[limit.type] ?? limit.hard;
    warn(`${limit.type} cannot be raised to ${limit.hard} without CAP_SYS_RESOURCE, stays at ${hard}`);
    return { type: limit.type, hard, soft: Math.min(limit.soft, hard) };
  });
}

export function scheduling({ scheduler, ioPriority }: Process): Step[] {
  const steps: Step[] = [];
  if (scheduler !== undefined) {
    const { policy, nice, priority, flags = [], runtime, deadline, period } = scheduler;
    const bits = flags.reduce((sum, flag) => sum | (schedulerFlags.get(flag) ?? 0), 0);
    const numbers = { nice, priority, flags: bits, runtime, deadline, period };
    steps.push({ scheduler: { policy: schedulerPolicies.get(policy), ...numbers } });
  }
  if (ioPriority !== undefined) {
    const { class: name, priority } = ioPriority;
    steps.push({ ioPriority: { ioprioClass: ioPriorityClasses.get(name), priority } });
  }
  return steps;
}

/** Execs only: on which CPUs the process may run before and after it is in the container's cgroup. */
export function affinity({ execCPUAffinity }: Process, when: 'initial' | 'final'): Step[] {
  const mask = parseCpuList(execCPUAffinity?.[when] ?? '');
  return mask === undefined ? [] : [{ cpuAffinity: { mask } }];
}

/** personality(2) of the two domains that the specification has. */
const personas: Readonly<Record<string, number>> = { LINUX: 0x0000, LINUX32: 0x0008 };

export function personality(wanted: LinuxPersonality | undefined): Step[] {
  return wanted === undefined ? [] : [{ personality: { persona: personas[wanted.domain] ?? 0 } }];
}
