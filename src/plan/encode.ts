import { bulkhead } from '../gen/bulkhead.js';
import type { LaunchPlan } from './inputs.ts';

/** The plan as the executor reads it: protobuf, package bulkhead.plan.v1. */
export function encodePlan(plan: LaunchPlan): Uint8Array {
  return bulkhead.plan.v1.LaunchPlan.encode(plan).finish();
}

/** The other way, for tools and tests. Throws on bytes that are not a plan. */
export function decodePlan(bytes: Uint8Array): LaunchPlan {
  return bulkhead.plan.v1.LaunchPlan.decode(bytes);
}
