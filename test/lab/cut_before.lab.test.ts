/** The first boot of the sitting "cut": a pod has functions of the host when the power goes. */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { allVfio, Functions, sh } from './functions.ts';
import { STATE } from './cut_state.ts';

const MINUTE = 60_000;

it('loses its power while a pod has functions of the host', async () => {
  const functions = await Functions.find();
  const containerd = await PrivateContainerd.start({
    runtime: 'io.containerd.bulkhead.v2',
    env: { BULKHEAD_ROOT: STATE },
  });
  const started = await containerd.run('lost', ['sleep', '10000'], {
    flags: ['-d', ...functions.annotation()],
    timeout: MINUTE,
  });
  expect(started).toMatchObject({ code: 0, stderr: '' });
  expect(functions.drivers()).toEqual(allVfio);
  expect(readdirSync(join(STATE, 'devices')).length).toBeGreaterThanOrEqual(3);
  // No sync: what has to be on the disk is there by the journal's own work.
  writeFileSync('/run/lab/cut', '');
  sh('sleep 1000');
});
