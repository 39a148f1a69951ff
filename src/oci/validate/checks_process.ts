/** The process of a container or of an exec. */
import { isAbsolute } from '../paths.ts';
import { RLIMITS } from '../rlimits.ts';
import { ioPriorityClasses, schedulerFlags, schedulerPolicies } from '../scheduling.ts';
import type { Process } from '../types.ts';
import type { Refuse } from './checks.ts';
import { parseCpuList } from '../cpu_list.ts';
import { show } from './shape.ts';

/** `prefix` is "process." for config.json and "" where the process stands alone. */
export function checkProcess(started: Process, prefix: string, refuse: Refuse): void {
  if (started.args.length === 0) refuse(`${prefix}args`, 'must name a program');
  if (started.args[0] === '') refuse(`${prefix}args[0]`, 'must not be empty');
  if (!isAbsolute(started.cwd)) {
    refuse(`${prefix}cwd`, `must be an absolute path, is ${show(started.cwd)}`);
  }
  (started.env ?? []).forEach((entry, index) => {
    if (entry.indexOf('=') < 1) refuse(`${prefix}env[${index}]`, `must be NAME=value, is ${show(entry)}`);
  });
  if ((started.user.umask ?? 0) > 0o777) {
    refuse(`${prefix}user.umask`, `must be at most 511 (0777), is ${started.user.umask}`);
  }
  // 2^32-1 is "leave unchanged" to setresuid(2), which would keep the runtime's own id.
  if (started.user.uid === 0xffffffff) refuse(`${prefix}user.uid`, 'is not a user id');
  if (started.user.gid === 0xffffffff) refuse(`${prefix}user.gid`, 'is not a group id');
  checkRlimits(started, prefix, refuse);
  checkScheduling(started, prefix, refuse);
  checkAffinity(started, prefix, refuse);
}

function checkRlimits({ rlimits = [] }: Process, prefix: string, refuse: Refuse): void {
  const seen = new Set<string>();
  rlimits.forEach(({ type, soft, hard }, index) => {
    const field = `${prefix}rlimits[${index}]`;
    if (!RLIMITS.has(type)) refuse(`${field}.type`, `unknown limit ${show(type)}`);
    if (seen.has(type)) refuse(`${field}.type`, `limit ${show(type)} is listed twice`);
    seen.add(type);
    if (soft > hard) refuse(`${field}.soft`, `${soft} is above the hard limit ${hard}`);
  });
}

function checkScheduling({ scheduler, ioPriority }: Process, prefix: string, refuse: Refuse): void {
  if (ioPriority !== undefined) {
    if (!ioPriorityClasses.has(ioPriority.class)) {
      refuse(`${prefix}ioPriority.class`, `unknown class ${show(ioPriority.class)}`);
    }
    const priority = ioPriority.priority ?? 0;
    if (priority < 0 || priority > 7) {
      refuse(`${prefix}ioPriority.priority`, `must be from 0 to 7, is ${priority}`);
    }
  }
  if (scheduler === undefined) return;
  const field = `${prefix}scheduler`;
  const { policy, nice = 0, priority = 0, flags = [], runtime = 0, deadline = 0, period = 0 } = scheduler;
  if (!schedulerPolicies.has(policy)) refuse(`${field}.policy`, `unknown policy ${show(policy)}`);
  const fair = policy === 'SCHED_OTHER' || policy === 'SCHED_BATCH';
  if (fair && (nice < -20 || nice > 19)) refuse(`${field}.nice`, `must be from -20 to 19, is ${nice}`);
  if (priority !== 0 && policy !== 'SCHED_FIFO' && policy !== 'SCHED_RR') {
    refuse(`${field}.priority`, `policy ${policy} has no priority`);
  }
  if (priority < 0 || priority > 99) refuse(`${field}.priority`, `must be from 0 to 99, is ${priority}`);
  if (policy !== 'SCHED_DEADLINE' && (runtime !== 0 || deadline !== 0 || period !== 0)) {
    refuse(`${field}.runtime`, `policy ${policy} has no runtime, deadline and period`);
  }
  flags.forEach((flag, index) => {
    if (!schedulerFlags.has(flag)) refuse(`${field}.flags[${index}]`, `unknown flag ${show(flag)}`);
  });
}

function checkAffinity({ execCPUAffinity }: Process, prefix: string, refuse: Refuse): void {
  for (const key of ['initial', 'final'] as const) {
    const cpus = execCPUAffinity?.[key] ?? '';
    if (cpus !== '' && parseCpuList(cpus) === undefined) {
      refuse(`${prefix}execCPUAffinity.${key}`, `must be a list of CPUs such as "0-3,7", is ${show(cpus)}`);
    }
  }
}
