import { expect, it } from 'vitest';
import { restoringValue } from './restore.ts';

it.each([
  ['pids.max', '5', 'max\n', 'max'],
  ['cpu.max', '1000 2000', 'max 100000\n', 'max 100000'],
  ['cpuset.cpus', '0', '\n', '\n'],
  ['memory.oom_control', '1', 'oom_kill_disable 0\nunder_oom 0\noom_kill 3\n', '0'],
  [
    'io.max',
    '8:0 rbps=1',
    '8:16 rbps=7 wbps=max riops=max wiops=max\n',
    '8:0 rbps=max wbps=max riops=max wiops=max',
  ],
  [
    'io.max',
    '8:16 rbps=1',
    '8:16 rbps=7 wbps=max riops=max wiops=max\n',
    '8:16 rbps=7 wbps=max riops=max wiops=max',
  ],
  ['io.weight', '50', 'default 100\n8:16 200\n', 'default 100'],
  ['io.weight', '8:0 50', 'default 100\n8:16 200\n', '8:0 default'],
  ['blkio.throttle.read_bps_device', '8:0 50', '', '8:0 0'],
  ['blkio.throttle.read_bps_device', '8:0 50', '8:0 1048576\n', '8:0 1048576'],
  [
    'rdma.max',
    'mlx5_0 hca_handle=2',
    'mlx5_0 hca_handle=max hca_object=max\n',
    'mlx5_0 hca_handle=max hca_object=max',
  ],
  ['rdma.max', 'none hca_handle=2', 'mlx5_0 hca_handle=max hca_object=max\n', undefined],
])('%s, after %j, from %j', (file, written, before, restored) => {
  expect(restoringValue(file, written, before)).toBe(restored);
});
