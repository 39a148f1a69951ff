/** Guests whose agent is reached by vsock: on KVM, on a host that has vhost-vsock. */
import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { engines, hypervisors, machineDirectories, vm } from '../e2e/vm/machines.ts';

const MINUTE = 60_000;
const VSOCK = 'channel = "vsock"\nboot_timeout_seconds = 300\n';
const STDOUT_BYTES = 16 << 20;

describe('the vm wall over vsock', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm, vmConfig: VSOCK });
  }, 4 * MINUTE);
  afterAll(() => containerd?.stop());

  const arguments_ = (pid: number): string => readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  const cid = (pid: number): number => Number(/"guest-cid":(\d+)/.exec(arguments_(pid))?.[1]);

  it(
    'passes output, errors and exit code on, of a machine that has no port for its agent',
    async () => {
      const script = 'uname -r; echo out; echo err >&2; exit 17';
      const result = await containerd.run('first', ['sh', '-c', script], { timeout: 4 * MINUTE });
      expect(result).toMatchObject({ code: 17, stderr: 'err\n' });
      expect(result.stdout.split('\n')[1]).toBe('out');
      expect(containerd.engineLog()).not.toContain('no template');
    },
    5 * MINUTE,
  );

  it(
    'keeps pods with numbers of their own, whose hypervisors have the device and no rights',
    async () => {
      for (const id of ['one', 'two']) {
        const started = await containerd.run(id, ['sleep', '1000'], { flags: ['-d'], timeout: 2 * MINUTE });
        expect(started).toMatchObject({ code: 0, stderr: '' });
      }
      const pids = hypervisors(containerd);
      expect(new Set(pids.map(cid)).size).toBe(2);
      for (const pid of pids) {
        expect(cid(pid)).toBeGreaterThan(2);
        expect(arguments_(pid)).not.toContain('virtserialport');
        expect(openFiles(pid)).toContain('/dev/vhost-vsock');
        const status = readFileSync(`/proc/${pid}/status`, 'utf8');
        expect(status).toMatch(/^Uid:\s+(?!0\b)\d+/m);
        expect(status).toMatch(/^CapEff:\s+0+$/m);
      }
      for (const dir of machineDirectories(containerd))
        expect(existsSync(join(containerd.bulkheadRoot, 'vm', dir, 'agent.sock'))).toBe(false);
    },
    5 * MINUTE,
  );

  it(
    'executes in both, with output, input and exit code',
    async () => {
      for (const id of ['one', 'two']) {
        const result = await containerd.exec(id, 'e1', ['sh', '-c', 'echo ready; wc -c; exit 3'], {
          stdin: 'x'.repeat(300_000),
          timeout: MINUTE,
        });
        expect(result).toMatchObject({ code: 3, stdout: 'ready\n300000\n' });
      }
    },
    3 * MINUTE,
  );

  it(
    'carries more than any buffer holds',
    async () => {
      const script = `head -c ${STDOUT_BYTES} /dev/zero | tr '\\0' x`;
      const result = await containerd.exec('one', 'big', ['sh', '-c', script], { timeout: 3 * MINUTE });
      expect(result.code).toBe(0);
      expect(result.stdout.length).toBe(STDOUT_BYTES);
    },
    4 * MINUTE,
  );

  it(
    'outlives the engine',
    async () => {
      for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
      const result = await containerd.exec('two', 'after', ['echo', 'still here'], { timeout: MINUTE });
      expect(result).toMatchObject({ code: 0, stdout: 'still here\n' });
    },
    2 * MINUTE,
  );

  it(
    'leaves nothing when it is removed',
    async () => {
      for (const id of ['one', 'two']) await containerd.remove(id);
      expect(await containerd.leaks()).toEqual([]);
      expect(hypervisors(containerd)).toEqual([]);
      expect(machineDirectories(containerd)).toEqual([]);
    },
    2 * MINUTE,
  );
});

const openFiles = (pid: number): string[] =>
  readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
