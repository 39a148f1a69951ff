import { expect, it } from 'vitest';
import { mountsBelow } from './pod_files.ts';

const mountinfo = [
  '21 1 8:1 / / rw - ext4 /dev/sda rw',
  '30 21 0:30 / /srv/my\\040data rw shared:1 - tmpfs tmpfs rw',
  '31 30 0:31 / /srv/my\\040data/below rw shared:2 - tmpfs tmpfs rw',
  '32 21 0:32 / /srv/my rw - tmpfs tmpfs rw',
  '',
].join('\n');

it.each([
  ['/srv/my data', ['31']],
  ['/srv', ['30', '31', '32']],
  ['/srv/my', []],
  ['/nowhere', []],
])('mounts below %s', (path, ids) => {
  expect(mountsBelow(path, mountinfo)).toEqual(ids);
});
