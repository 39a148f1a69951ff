/** The vm wall's smoke tests where KVM works: the engine is to find that out by itself. */
import { existsSync, readFileSync, readlinkSync, readdirSync } from 'node:fs';
import { release } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { hypervisors, machineDirectories, shareDaemons, updateTask, vm } from '../e2e/vm/machines.ts';
import { PATIENT, runInMachine } from './machines.ts';

const MINUTE = 60_000;

describe('the vm wall on KVM', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm, vmConfig: PATIENT });
  });
  afterAll(() => containerd?.stop());

  it('has a host whose KVM works', () => {
    expect(readFileSync('/proc/cpuinfo', 'utf8')).toMatch(/^flags\s*:.*\bsvm\b/m);
    expect(existsSync('/dev/kvm')).toBe(true);
  });

  it('boots, runs on a kernel of its own, and passes output and exit code on', async () => {
    const script = 'uname -r; echo out; echo err >&2; exit 17';
    const result = await runInMachine(containerd, 'first', ['sh', '-c', script], { timeout: 4 * MINUTE });
    expect(result).toMatchObject({ code: 17, stderr: 'err\n' });
    const [kernel, out] = result.stdout.split('\n');
    expect(kernel).toMatch(/^\d+\.\d+/);
    expect(kernel).not.toBe(release());
    expect(out).toBe('out');
  });

  it('has chosen KVM by itself, and says so', () => {
    expect(containerd.engineLog()).toMatch(/msg="virtual machines run on KVM" .*reason=works/);
    expect(containerd.engineLog()).not.toContain('emulated by TCG');
  });

  it('keeps a pod that answers, on KVM, whose hypervisor is nobody', async () => {
    const started = await runInMachine(containerd, 'pod', ['sleep', '1000'], {
      flags: ['-d'],
      timeout: 2 * MINUTE,
    });
    expect(started).toMatchObject({ code: 0, stderr: '' });
    const [pid = 0, ...others] = hypervisors(containerd);
    expect(others).toEqual([]);
    expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain('\0-accel\0kvm\0');
    expect(openFiles(pid)).toContain('anon_inode:kvm-vm');
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    expect(status).toMatch(/^Uid:\s+(?!0\b)\d+/m);
    expect(status).toMatch(/^CapEff:\s+0+$/m);
  });

  it('executes in it, with output, input and exit code', async () => {
    const plain = await containerd.exec('pod', 'e1', ['sh', '-c', 'echo out; echo err >&2; exit 3'], {
      timeout: MINUTE,
    });
    expect(plain).toMatchObject({ code: 3, stdout: 'out\n', stderr: 'err\n' });
    const piped = await containerd.exec('pod', 'e2', ['sh', '-c', 'echo ready; wc -c'], {
      stdin: 'x'.repeat(300_000),
      timeout: MINUTE,
    });
    expect(piped).toMatchObject({ code: 0, stdout: 'ready\n300000\n' });
  });

  it('pauses and resumes', async () => {
    expect((await containerd.ctr(['task', 'pause', 'pod'])).code).toBe(0);
    expect(await containerd.status('pod')).toBe('PAUSED');
    expect((await containerd.ctr(['task', 'resume', 'pod'])).code).toBe(0);
    expect(await containerd.status('pod')).toBe('RUNNING');
  });

  it('gets processors when a limit is above those that it has', async () => {
    const nproc = async (id: string): Promise<string> =>
      (await containerd.exec('pod', id, ['nproc'], { timeout: MINUTE })).stdout.trim();
    expect(await nproc('before')).toBe('1');
    await updateTask(containerd, 'pod', { cpu: { quota: 300_000, period: 100_000 } });
    expect(await nproc('after')).toBe('3');
    await expect(updateTask(containerd, 'pod', { cpu: { quota: 900_000 } })).rejects.toThrow(
      '9 vCPUs: are above the largest machine of 4',
    );
  });

  it('leaves nothing when it is removed', async () => {
    await containerd.remove('pod');
    expect(await containerd.leaks()).toEqual([]);
    expect(hypervisors(containerd)).toEqual([]);
    expect(shareDaemons(containerd)).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});

const openFiles = (pid: number): string[] =>
  readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
