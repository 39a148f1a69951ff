import { bulkhead } from '../gen/bulkhead.js';
import type { LaunchPlan } from './inputs.ts';

/** The plan as the executor reads it: protobuf, package bulkhead.plan.v1. */
export function encodePlan(plan: LaunchPlan): Uint8Array {
  return bulkhead.plan.v1.LaunchPlan.encode(plan).finish();
}

/**
 * The other way, for tools and tests. Throws on bytes that are not a plan. RLIM_INFINITY comes back as the -1 that the
 * compiler writes: 2^64-1 is no JavaScript number.
 */
export function decodePlan(bytes: Uint8Array): LaunchPlan {
  const plan = bulkhead.plan.v1.LaunchPlan.decode(bytes);
  for (const { rlimit } of plan.steps) {
    if (rlimit === undefined || rlimit === null) continue;
    rlimit.soft = signed(rlimit.soft);
    rlimit.hard = signed(rlimit.hard);
  }
  return plan;
}

function signed(value: number | null | undefined): number {
  return (value ?? 0) >= 2 ** 63 ? -1 : (value ?? 0);
}
