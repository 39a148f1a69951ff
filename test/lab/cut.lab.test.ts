/** The second boot of the sitting "cut": what the first one's journal says is undone by the first engine that starts. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { eventually } from '../e2e/lib/exec.ts';
import { prefix } from '../e2e/lib/paths.ts';
import { kernelWrite } from '../../src/native/kernel_write.ts';
import { Launcher } from '../../src/native/launcher.ts';
import { allVfio, Functions, hostDrivers, sh } from './functions.ts';
import { STATE } from './cut_state.ts';

const MINUTE = 60_000;
const claims = (): string[] => readdirSync(join(STATE, 'devices'));

describe('after a cut of the power', () => {
  let functions: Functions;
  let containerd: PrivateContainerd;
  let found: string[] = [];
  let probe = '';
  beforeAll(async () => {
    found = claims();
    functions = await Functions.find();
    containerd = await PrivateContainerd.start({
      runtime: 'io.containerd.bulkhead.v2',
      env: { BULKHEAD_ROOT: STATE },
    });
    probe = join(containerd.dir, 'vfio_probe');
    sh(`gcc -O1 -static -o ${probe} ${join(import.meta.dirname, 'vfio_probe.c')}`);
  });
  afterAll(() => containerd?.stop());

  it('the journal is on the disk', () => {
    const texts = found.map((name) => readFileSync(join(STATE, 'devices', name), 'utf8')).join('\n');
    for (const address of Object.values(functions.addresses)) expect(texts).toContain(address);
  });

  it('the functions are the host’s, and the next engine drops the claims of the boot before', async () => {
    expect(functions.drivers()).toEqual(hostDrivers);
    expect(await containerd.run('first', ['true'])).toMatchObject({ code: 0, stderr: '' });
    expect(claims()).toEqual([]);
    expect(functions.drivers()).toEqual(hostDrivers);
  });

  it('a driver does not let go of one that a program has open: the write is given up, and all is as before in the end', async () => {
    const mount = ['--mount', `type=bind,src=${probe},dst=/probe,options=bind:ro`];
    const flags = ['-d', ...mount, ...functions.annotation()];
    const held = await containerd.run('held', ['/probe', 'hold', ...functions.probeArguments()], {
      flags,
      timeout: MINUTE,
    });
    expect(held.stderr).toBe('');
    expect(functions.drivers()).toEqual(allVfio);
    const group = basename(readlinkSync(`/sys/bus/pci/devices/${functions.addresses.nvme}/iommu_group`));
    const holders = (): string[] =>
      sh(`ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o '/dev/vfio/${group}$' || true`).split('\n');
    await eventually('the program to have it open', () => holders().includes(`/dev/vfio/${group}`));
    // The kernel waits for the last user: Documentation/driver-api/vfio.rst, "unbind".
    const unbind = `/sys/bus/pci/devices/${functions.addresses.nvme}/driver/unbind`;
    const launcher = new Launcher(join(prefix, 'lib/bulkhead/bulkhead-init'));
    await expect(kernelWrite(launcher, unbind, functions.addresses.nvme, 3000)).rejects.toThrow(
      `write: ${unbind}: the kernel did not come back within 3000 ms: the device is in use; end the processes that hold the device open`,
    );
    await containerd.remove('held');
    await eventually(
      'the host’s drivers',
      () => JSON.stringify(functions.drivers()) === JSON.stringify(hostDrivers),
      MINUTE,
    );
    expect(claims()).toEqual([]);
  });

  it('they can be had again, driven by a program in a container, and given back', async () => {
    const mount = ['--mount', `type=bind,src=${probe},dst=/probe,options=bind:ro`];
    const flags = ['--rm', ...mount, ...functions.annotation()];
    const result = await containerd.run('again', ['/probe', ...functions.probeArguments()], {
      flags,
      timeout: MINUTE,
    });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout.trim().split('\n')).toEqual(functions.probeLines());
    expect(functions.drivers()).toEqual(hostDrivers);
    expect(claims()).toEqual([]);
  });
});
