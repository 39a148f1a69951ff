import { expect, it } from 'vitest';
import { bulkhead } from '../gen/bulkhead.js';
import { encodePlan } from './encode.ts';
import type { LaunchPlan, Step } from './inputs.ts';

const { LaunchPlan: Plan, Step: StepMessage } = bulkhead.plan.v1;

it('writes every step as protobufjs does', () => {
  const actions = Object.keys(StepMessage.prototype).filter((name) => name !== 'action');
  expect(actions.length).toBeGreaterThan(50);
  const steps = actions.map((action) => ({ [action]: {} }));
  const plan: LaunchPlan = {
    version: 1,
    id: 'x',
    steps: [...steps, { hostname: { name: 'a' } }, {}],
  };
  expect(Buffer.from(encodePlan(plan)).equals(Plan.encode(plan).finish())).toBe(true);
  // A second time, with what the first one has learnt.
  expect(Buffer.from(encodePlan(plan)).equals(Plan.encode(plan).finish())).toBe(true);
});

it('refuses a step that it does not know', () => {
  expect(() => encodePlan({ version: 1, id: 'x', steps: [{ nonsense: {} } as Step] })).toThrow(
    'nonsense: no such step',
  );
});
