/** exec with a fault before each of its plan's steps: one sentence, nothing left, the container unharmed. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RuntimeError } from '../../src/base/errors.ts';
import { isAlive } from '../../src/base/proc.ts';
import type { Process } from '../../src/oci/types.ts';
import type { Container } from '../../src/runtime/container.ts';
import { deleteExec } from '../../src/runtime/delete.ts';
import { addExec, startExec } from '../../src/runtime/exec.ts';
import { startContainer } from '../../src/runtime/start.ts';
import { NOWHERE, stepNamesOf, type FaultKind } from './lib/faults.ts';
import { changesSince, look, untilHung } from './lib/host.ts';
import { Local } from './lib/local.ts';

const local = new Local();
await local.prepare();
const container = await started('plain', 'f-exec');
const contained = await started('userns', 'f-exec-userns');

async function started(spec: 'plain' | 'userns', id: string): Promise<Container> {
  local.bundle.write(local.bundle.spec(spec, id));
  const made = await local.create(id);
  await startContainer(local.ctx, made);
  return made;
}

const process: Process = {
  user: { uid: 1000, gid: 1000, additionalGids: [5] },
  args: ['/bin/sleep', '1000'],
  cwd: '/tmp',
  env: ['PATH=/bin'],
  capabilities: { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], permitted: ['CAP_KILL'] },
  rlimits: [{ type: 'RLIMIT_NOFILE', soft: 100, hard: 100 }],
};

async function exec(into: Container, terminal: boolean, fault?: () => Promise<void>): Promise<void> {
  const stdio = { stdin: '', stdout: '', stderr: '', terminal };
  const added = addExec(local.ctx, into, 'e', JSON.stringify({ ...process, terminal }), stdio);
  const ended = new Promise<void>((resolve) => {
    const end = local.executor.onExit((exit) => {
      if (exit.key !== added.key) return;
      end();
      if (added.record.pid) {
        added.recordExit(exit);
        added.announceExit();
      }
      resolve();
    });
  });
  try {
    const starting = startExec(local.ctx, into, added);
    await fault?.();
    const pid = await starting;
    expect(isAlive(pid)).toBe(true);
    await local.executor.signal(added.key, 9).catch(() => {});
    await ended;
  } finally {
    if (added.isStopped || added.pid === 0) await deleteExec(local.ctx, into, added);
  }
}

const cases: [string, Container, boolean][] = [
  ['plain', container, false],
  ['with a terminal', container, true],
  ['in a user namespace', contained, false],
];
const steps = new Map<string, [number, string][]>();
for (const [name, into, terminal] of cases) {
  await exec(into, terminal);
  steps.set(
    name,
    stepNamesOf(local.backend.lastPlan).map((step, index) => [index, step]),
  );
}

describe.each(cases)('exec, %s', (name, into, terminal) => {
  let before: ReturnType<typeof look>;
  beforeAll(async () => {
    await exec(into, terminal);
  });
  beforeEach(() => {
    before = look(local.watched);
  });
  afterEach(async () => {
    local.backend.fault = undefined;
    expect(await changesSince(before, local.watched)).toEqual([]);
    expect(isAlive(into.init.pid)).toBe(true);
    expect(into.execs.size).toBe(0);
  });

  const kill = async (): Promise<void> => {
    await untilHung();
    await local.executor.signal(`${into.id}/e`, 9);
  };
  const kinds: FaultKind[] = ['fail', 'die', 'hang'];
  describe.each(kinds)('%s', (kind) => {
    it.each(steps.get(name) ?? [])('before step %i, %s', async (index) => {
      local.backend.fault = { kind, index, rootfs: local.bundle.rootfs };
      const error: unknown = await exec(into, terminal, kind === 'hang' ? kill : undefined).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(RuntimeError);
      const { message } = error as RuntimeError;
      expect(message).not.toContain('\n');
      if (kind === 'fail')
        expect(message).toMatch(`exec ${into.id}/e: write ${NOWHERE}: no such file or directory`);
      else if (kind === 'hang') expect(message).toMatch(/init died: .*killed by signal 9|permission denied/);
      else expect(message).toMatch(/^exec f-exec[\w-]*\/e: (init died|seccomp|no_new_privs)/);
    });
  });

  it('works afterwards', async () => {
    await exec(into, terminal);
  });
});

afterAll(async () => {
  await local.remove(container);
  await local.remove(contained);
  local.dispose();
});
