import { expect, it } from 'vitest';
import { LaunchError, type LaunchFailure } from '../sandbox/executor.ts';
import { launchSentence } from './launch_sentence.ts';

const config = Buffer.from('{"linux":{"resources":{"memory":{"limit":600000},"pids":{"limit":1}}}}');
const failure: LaunchFailure = { path: '', errno: 0, detail: '', status: 0, op: 'init died' };

it.each<[Partial<LaunchFailure>, string]>([
  [
    { status: 9 },
    "create web: init died: the container's first process ended early: killed by signal 9; its memory limit of 600000 bytes may be too small",
  ],
  [{ status: 1 << 8 }, "create web: init died: the container's first process ended early: exit status 1"],
  [
    { op: 'clone', errno: 11 },
    'create web: clone: resource temporarily unavailable; its limit of 1 processes may be too small',
  ],
])('says of %j which limit may be to blame', (given, text) => {
  const error = new LaunchError({ ...failure, ...given });
  expect(launchSentence('create', 'web', error, config)).toMatchObject({ message: text });
});

it('blames no limit that is large enough', () => {
  const enough = Buffer.from('{"linux":{"resources":{"memory":{"limit":67108864}}}}');
  const error = new LaunchError({ ...failure, status: 9 });
  expect(launchSentence('create', 'web', error, enough)).toMatchObject({
    message: "create web: init died: the container's first process ended early: killed by signal 9",
  });
});
