import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { engines, hypervisors, machineDirectories, shareDaemons, vm } from './machines.ts';

const hungUp = 'virtual machine: its agent hung up, or said what no agent says';
const silent = 'virtual machine: its agent did not answer within 3 s';

/**
 * A hypervisor that was taken over by its guest: whatever it says on the QMP socket and on the agent's port, the create
 * fails with one sentence, everything of the machine is gone, and the engine goes on with all other containers.
 */
describe('a hostile hypervisor', () => {
  /** The agent's silence is waited for by one that gives up soon; on a busy machine other faults need longer to show. */
  let patient: PrivateContainerd;
  let impatient: PrivateContainerd;
  let dir: string;
  beforeAll(async () => {
    // Machines run as a uid of their own, which must be able to read the program.
    dir = mkdtempSync(join(tmpdir(), 'bh-hostile-'));
    chmodSync(dir, 0o755);
    const start = async (seconds: number): Promise<PrivateContainerd> => {
      const lines = [
        `qemu = "${join(dir, 'qemu')}"`,
        'template = false',
        `boot_timeout_seconds = ${seconds}`,
        'accelerator = "tcg"',
      ];
      const started = await PrivateContainerd.start({ runtime: vm, vmConfig: `${lines.join('\n')}\n` });
      expect((await started.run('first', ['true'], { runtime: namespaces })).code).toBe(0);
      return started;
    };
    writeProgram('agent-silent');
    patient = await start(120);
    impatient = await start(3);
  });
  afterAll(async () => {
    await patient?.stop();
    await impatient?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  const namespaces = 'io.containerd.bulkhead.v2';
  const here = dirname(fileURLToPath(import.meta.url));
  const writeProgram = (mode: string): void => {
    const script = readFileSync(join(here, 'hostile_machine.mjs'), 'utf8').replace("'MODE'", `'${mode}'`);
    writeFileSync(join(dir, 'hostile.mjs'), script);
    writeFileSync(join(dir, 'qemu'), `#!/bin/sh\nexec ${process.execPath} ${join(dir, 'hostile.mjs')}\n`);
    chmodSync(join(dir, 'qemu'), 0o755);
  };

  it.each([
    ['qmp-garbage', "qemu's control socket: sent what is not JSON"],
    ['qmp-hangs-up', "qemu's control socket: the connection"],
    ['qmp-endless', "qemu's control socket: sent a line of more than 4 MiB"],
    ['qmp-stranger', "qemu's control socket: answered a request that was not made"],
    ['agent-hangs-up', hungUp],
    ['agent-noise', silent],
    ['agent-silent', silent],
    ['agent-oversized', hungUp],
    ['agent-no-message', hungUp],
    ['agent-unknown-kind', hungUp],
    ['agent-stranger', silent],
    ['agent-old', hungUp],
  ])(
    '(%s) is one error, and nothing is left',
    async (mode, words) => {
      writeProgram(mode);
      const containerd = words === silent ? impatient : patient;
      const before = engines(containerd);
      const result = await containerd.run(mode, ['true'], { timeout: 60_000 });
      expect(result.code).not.toBe(0);
      expect(result.stderr).toContain(words);
      expect(result.stderr.trim().split('\n')).toHaveLength(1);
      await containerd.ctr(['container', 'rm', mode]);
      expect(await containerd.leaks()).toEqual([]);
      expect([hypervisors(containerd), shareDaemons(containerd), machineDirectories(containerd)]).toEqual([
        [],
        [],
        [],
      ]);
      const after = await containerd.run(`after-${mode}`, ['echo', 'fine'], { runtime: namespaces });
      expect(after.stdout).toBe('fine\n');
      expect(before.length).toBeLessThanOrEqual(1);
      for (const pid of before) expect(engines(containerd)).toContain(pid);
    },
    600_000,
  );
});
