import { describe, expect, it } from 'vitest';
import { CLONE_NEWNET, CLONE_NEWPID } from '../../base/constants.ts';
import type { Step } from '../../plan/inputs.ts';
import { supervise, supervisorPlan } from './plan.ts';

const filter = { program: new Uint8Array(8), flags: 0x20 };
const names = (steps: readonly Step[] | null | undefined): string[] =>
  (steps ?? []).flatMap((step) => Object.keys(step));
const steps: Step[] = [
  { openTree: { slot: 1, path: '/b' } },
  { joinNamespace: { path: '/run/netns/a', types: CLONE_NEWNET } },
  { clone: { namespaces: CLONE_NEWPID } },
  { gate: { point: 'start' } },
  { exec: { args: ['sh'] } },
];

describe('a supervised plan', () => {
  it('finds the supervisor before Clone and filters right before Exec', () => {
    const plan = supervise({ version: 1, id: 'web', steps }, { socket: '/s', filter, landlock: false });
    expect(names(plan.steps)).toEqual([
      'openTree',
      'openTree',
      'joinNamespace',
      'writeFile',
      'clone',
      'gate',
      'seccomp',
      'exec',
    ]);
    expect(plan.steps?.[0]).toEqual({ openTree: { slot: 2, path: '/s', pathOnly: true } });
    expect(plan.steps?.[6]).toEqual({ seccomp: { ...filter, listenerSlot: 2 } });
  });

  it("puts a filter of the configuration's own behind its own, and Landlock before both", () => {
    const own: Step = { seccomp: { program: new Uint8Array(16), flags: 0 } };
    const with2 = [...steps.slice(0, 4), own, ...steps.slice(4)];
    const plan = supervise({ version: 1, id: 'web', steps: with2 }, { socket: '/s', filter, landlock: true });
    expect(names(plan.steps).slice(-4)).toEqual(['landlock', 'seccomp', 'seccomp', 'exec']);
    expect(plan.steps?.at(-2)).toBe(own);
  });
});

describe("the supervisor's plan", () => {
  const plan = supervisorPlan({
    id: 'web/.sentry',
    program: '/p/bulkhead-sentry',
    socket: '/r/s',
    cgroupSteps: [{ makeCgroup: { path: '/c' } }],
    memoryCgroup: '/c',
    threads: 4,
    policy: new Uint8Array([6, 0, 0, 0, 0, 0, 5, 0]),
    table: [
      [63, 1],
      [99, 2],
    ],
  });

  it('listens first, joins the cgroup and keeps three capabilities', () => {
    expect(names(plan.steps)).toEqual([
      'listen',
      'makeCgroup',
      'oomScoreAdj',
      'clone',
      'boundingSet',
      'capabilities',
      'noNewPrivs',
      'exec',
    ]);
    expect(plan.steps?.[4]).toEqual({ boundingSet: { mask: 2 ** 1 + 2 ** 19 + 2 ** 21 } });
  });

  it('hands the dispatch table and the policy over', () => {
    expect(plan.steps?.at(-1)?.exec?.args).toEqual([
      'bulkhead-sentry',
      '/c',
      '63:1,99:2',
      'threads=4',
      'policy=0600000000000500',
    ]);
  });
});
