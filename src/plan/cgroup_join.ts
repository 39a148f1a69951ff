import type { Step } from './inputs.ts';

/**
 * The cgroup steps of a plan. CLONE_INTO_CGROUP checks write access with the credentials of that moment (clone(2),
 * EACCES): in a plan that joins a user namespace first, those are nobody to the host's cgroups. And where cgroup2 is
 * mounted with nsdelegate, as systemd does, a process that has joined a cgroup namespace cannot leave a cgroup outside
 * it (cgroups(7), ENOENT). Such plans move their outer stage instead, before they join, and pay for the wait
 * (launch_plan.proto, JoinCgroup).
 */
export function cgroupSteps(outer: readonly Step[], moveBefore: boolean): readonly Step[] {
  if (!moveBefore) return outer;
  return outer.map((step) =>
    step.joinCgroup?.atClone === true ? { joinCgroup: { path: step.joinCgroup.path } } : step,
  );
}
