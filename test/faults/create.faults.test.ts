/** create with a fault before each of its plan's steps: one sentence, nothing left behind, and then it works. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { RuntimeError } from '../../src/base/errors.ts';
import { parseSpec } from '../../src/oci/validate/index.ts';
import { isAlive } from '../../src/base/proc.ts';
import { specNames, type SpecName } from './lib/bundles.ts';
import { NOWHERE, stepNamesOf, type FaultKind } from './lib/faults.ts';
import { changesSince, look, untilHung } from './lib/host.ts';
import { Local } from './lib/local.ts';

const local = new Local();
await local.prepare();
const id = (name: SpecName): string => `f-${name}`;

/** Steps of the plan of a configuration on this machine. */
function stepsOf(name: SpecName): [number, string][] {
  const spec = parseSpec(JSON.stringify(local.bundle.spec(name, id(name))), id(name));
  const record = { id: id(name), bundle: local.bundle.dir, rootfs: local.bundle.rootfs };
  const plan = local.backend.compile(record, { spec, rootfsMounts: [], options: {} });
  return stepNamesOf(plan).map((step, index) => [index, step]);
}

async function createAndRemove(name: SpecName): Promise<void> {
  const container = await local.create(id(name), name === 'terminal');
  expect(isAlive(container.init.pid)).toBe(true);
  await local.remove(container);
}

/** Every step of every plan fails; the other ends are as much about the launch as about the plan. */
const kinds: Record<SpecName, FaultKind[]> = {
  plain: ['fail', 'die', 'hang'],
  terminal: ['fail', 'die'],
  cri: ['fail'],
  userns: ['fail', 'die'],
  loaded: ['fail', 'hang'],
};

describe.each(specNames)('%s: create', (name) => {
  const steps = stepsOf(name);
  let before: ReturnType<typeof look>;

  beforeAll(async () => {
    local.bundle.write(local.bundle.spec(name, id(name)));
    // Once for what stays open on purpose, such as the executor's own file.
    await createAndRemove(name);
    before = look(local.watched);
  });
  afterEach(async () => {
    local.backend.fault = undefined;
    expect(await changesSince(before, local.watched)).toEqual([]);
  });

  async function outcome(kind: FaultKind, index: number): Promise<unknown> {
    local.backend.fault = { kind, index, rootfs: local.bundle.rootfs };
    const creating = local.create(id(name), name === 'terminal');
    const failed = creating.then(
      () => undefined,
      (error: unknown) => error,
    );
    if (kind === 'hang') {
      await untilHung();
      await local.executor.signal(id(name), 9);
    }
    const error = await failed;
    if (error === undefined) await local.remove(await creating);
    return error;
  }

  describe.each(kinds[name])('%s', (kind) => {
    // What stands behind the start gate is a matter of start.
    const gate = steps.findLastIndex(([, step]) => step === 'gate');
    it.each(steps.slice(0, gate + 1))('before step %i, %s', async (index) => {
      const error = await outcome(kind, index);
      expect(error).toBeInstanceOf(RuntimeError);
      const { message } = error as RuntimeError;
      expect(message).not.toContain('\n');
      if (kind === 'fail')
        expect(message).toMatch(`create ${id(name)}: write ${NOWHERE}: no such file or directory`);
      else if (kind === 'hang')
        expect(message).toBe(
          `create ${id(name)}: init died: the container's first process ended early: killed by signal 9`,
        );
      else expect(message).toMatch(/^create f-\w+: (init died|seccomp|no_new_privs)/);
    });
  });

  it('works afterwards', async () => {
    await createAndRemove(name);
  });
});

afterAll(() => local.dispose());
