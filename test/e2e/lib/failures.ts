/** What is known of a test that has failed: the last words of the containerds and engines that are up, beside its report. */
import { afterEach } from 'vitest';
import { PrivateContainerd } from './containerd.ts';

const LINES = 60;

/** containerd's own words at level debug are mostly of no help. */
const last = (text: string): string =>
  text
    .split('\n')
    .filter((line) => line !== '' && !line.includes('level=debug'))
    .slice(-LINES)
    .join('\n');

afterEach(({ task }) => {
  if (task.result?.state !== 'fail') return;
  for (const containerd of PrivateContainerd.running) {
    console.error(`== ${task.name}: containerd in ${containerd.dir}:\n${last(containerd.log())}`);
    console.error(`== ${task.name}: its engine:\n${last(containerd.engineLog())}`);
  }
});
