/** Device rules for property tests: few numbers, so that rules meet. */
import fc from 'fast-check';
import type { DeviceRule } from '../device_rules.ts';

const maybe = (...values: number[]) => fc.constantFrom<number | undefined>(undefined, ...values);

export const anyRule: fc.Arbitrary<DeviceRule> = fc.record({
  allow: fc.boolean(),
  type: fc.constantFrom<'b' | 'c'>('b', 'c'),
  major: maybe(1, 8),
  minor: maybe(0, 3, 5),
  access: fc.integer({ min: 1, max: 7 }),
});

const whole = fc
  .boolean()
  .map((allow): DeviceRule[] =>
    (['b', 'c'] as const).map((type) => ({ allow, type, major: undefined, minor: undefined, access: 7 })),
  );

/** Lists with the pair that a rule of type "a" becomes among them. */
export const anyRules: fc.Arbitrary<DeviceRule[]> = fc
  .array(fc.oneof({ weight: 4, arbitrary: anyRule.map((rule) => [rule]) }, { weight: 1, arbitrary: whole }), {
    maxLength: 12,
  })
  .map((parts) => parts.flat());
