/** A launch plan as the executor reads it. */
import { bulkhead } from '../gen/bulkhead.js';

/** Encodes a plan (proto/launch_plan.proto). */
export function encodePlan(plan: bulkhead.plan.v1.ILaunchPlan): Uint8Array {
  return bulkhead.plan.v1.LaunchPlan.encode(plan).finish();
}
