import { describe, expect, it } from 'vitest';
import { compileHelper } from './helper.ts';
import { planToJson, printPlan } from './print.ts';
import type { LaunchPlan } from './inputs.ts';

const plan: LaunchPlan = {
  version: 1,
  id: 'web-1',
  steps: [
    { writeFile: { path: '/c/memory.max', data: new TextEncoder().encode('64\n') } },
    { attachDeviceProgram: { cgroup: '/c', instructions: new Uint8Array(64) } },
    { clone: { namespaces: 0x20020000, uidMaps: [{ containerId: 0, hostId: 7, size: 1 }] } },
    { mountSetattr: { slot: 1, set: 1, clear: 0x70, propagation: 1, propagationRecursive: true } },
    { pivotRoot: {} },
    { rlimit: { resource: 7, soft: 5, hard: -1 } },
    { exec: { args: ['sh', '-c', 'echo "x"\n'] } },
  ],
};

describe('printing plans', () => {
  it('says each step in words, under the stage it runs in', () => {
    expect(printPlan(plan)).toBe(`plan of web-1: 7 steps

outer stage, in the namespaces of the launcher
  0  write "64\\n" to /c/memory.max
  1  attach device program (64 bytes) to /c
  2  clone with new namespaces pid,mount, uids 0:7:1, gids${' '}

inner stage, in the namespaces of the container
  3  mount in slot 1: set ro, clear atime mode, make private recursively
  4  pivot_root

inner stage, inside the root of the container
  5  RLIMIT_NOFILE 5 of unlimited
  6  exec "sh" "-c" "echo \\"x\\"\\n"
`);
  });

  it('knows a plan of one process', () => {
    expect(printPlan(compileHelper({ id: 'hook', path: '/bin/hook' }))).toBe(
      'plan of hook: 1 steps\n\none process, without Clone\n  0  exec "/bin/hook" "/bin/hook"\n',
    );
  });

  it('turns bytes into base64 for programs, also out of a Buffer', () => {
    const steps = [
      { seccomp: { program: Buffer.from([1, 2, 3]) } },
      { cpuAffinity: { mask: new Uint8Array([255]) } },
    ];
    expect(planToJson({ version: 1, id: 'x', steps })).toEqual({
      version: 1,
      id: 'x',
      steps: [
        { seccomp: { program: { bytes: 3, base64: 'AQID' } } },
        { cpuAffinity: { mask: { bytes: 1, base64: '/w==' } } },
      ],
    });
  });
});
