import type { Step } from './inputs.ts';

/**
 * The cgroup steps of a plan. CLONE_INTO_CGROUP checks write access with the credentials of that moment (clone(2),
 * EACCES): in a plan that joins a user namespace first, those are nobody to the host's cgroups. Such a plan moves its
 * outer stage instead, before it joins, and pays for the wait (launch_plan.proto, JoinCgroup).
 */
export function cgroupSteps(outer: readonly Step[], joinsUserNamespace: boolean): readonly Step[] {
  if (!joinsUserNamespace) return outer;
  return outer.map((step) =>
    step.joinCgroup?.atClone === true ? { joinCgroup: { path: step.joinCgroup.path } } : step,
  );
}
