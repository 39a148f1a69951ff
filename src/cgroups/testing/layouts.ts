/** Layouts of hosts for tests. */
import type { CgroupLayout } from '../host.ts';

const root = '/sys/fs/cgroup';

function hierarchy(name: string, names: string[] = [name]) {
  return { names, mountPoint: `${root}/${name}`, root: '/', ownPath: '/' };
}

function unified(mountPoint: string, controllers: string[], weightFiles: string[] = []) {
  return { names: [], mountPoint, root: '/', ownPath: '/', controllers, weightFiles };
}

/** Every v1 controller, cpu and cpuacct together. */
export const v1Layout: CgroupLayout = {
  mode: 'v1',
  hierarchies: [
    hierarchy('cpu,cpuacct', ['cpu', 'cpuacct']),
    ...['cpuset', 'memory', 'devices', 'freezer', 'blkio', 'pids', 'hugetlb', 'rdma'].map((name) =>
      hierarchy(name),
    ),
    hierarchy('net_cls,net_prio', ['net_cls', 'net_prio']),
    hierarchy('systemd', ['name=systemd']),
  ],
};

/** A few v1 controllers; hugetlb in the unified hierarchy. */
export const hybridLayout: CgroupLayout = {
  mode: 'hybrid',
  hierarchies: ['cpu', 'cpuset', 'memory', 'devices', 'freezer', 'pids'].map((name) => hierarchy(name)),
  unified: unified(`${root}/unified`, ['hugetlb']),
};

export const v2Layout: CgroupLayout = {
  mode: 'v2',
  hierarchies: [],
  unified: unified(root, ['cpuset', 'cpu', 'io', 'memory', 'hugetlb', 'pids', 'rdma'], ['io.weight']),
};
