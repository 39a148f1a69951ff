/** The second boot of the sitting "cut": what the first one's journal says is undone by the first engine that starts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { Functions, hostDrivers, sh } from './functions.ts';
import { STATE } from './cut_state.ts';

const MINUTE = 60_000;
const claims = (): string[] => readdirSync(join(STATE, 'devices'));

describe('after a cut of the power', () => {
  let functions: Functions;
  let containerd: PrivateContainerd;
  let found: string[] = [];
  beforeAll(async () => {
    found = claims();
    functions = await Functions.find();
    containerd = await PrivateContainerd.start({
      runtime: 'io.containerd.bulkhead.v2',
      env: { BULKHEAD_ROOT: STATE },
    });
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

  it('they can be had again, driven by a program in a container, and given back', async () => {
    const probe = join(containerd.dir, 'vfio_probe');
    sh(`gcc -O1 -static -o ${probe} ${join(import.meta.dirname, 'vfio_probe.c')}`);
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
