/** Resources as files of the cgroup v1 controllers. Zero means "not set", as in runc, but for pids and weights' absence. */
import type { LinuxBlockIO, LinuxCPU, LinuxMemory, LinuxResources } from '../oci/types.ts';
import { decimal } from './convert.ts';
import { absent, refuseSetting, type Setting, type SettingsContext } from './setting.ts';

/** In an order that a fresh cgroup accepts: real-time bandwidth before processes, memory before memory and swap. */
export function v1Settings(resources: LinuxResources, context: SettingsContext): Setting[] {
  checkValues(resources, context);
  return [
    ...cpusetSettings(resources.cpu ?? {}),
    ...memorySettings(resources.memory ?? {}, context),
    ...cpuSettings(resources.cpu ?? {}, context),
    ...pidsSettings(resources),
    ...blkioSettings(resources.blockIO ?? {}),
    ...hugetlbSettings(resources, 'limit_in_bytes'),
    ...networkSettings(resources),
    ...rdmaSettings(resources),
  ];
}

/** Values that no kernel takes, for either version; what depends on the host or on other settings the kernel says. */
export function checkValues({ memory = {}, cpu = {} }: LinuxResources, context: SettingsContext): void {
  for (const field of ['limit', 'swap', 'reservation'] as const) {
    const value = memory[field] ?? 0;
    if (value < -1)
      throw refuseSetting(context, `memory.${field}`, `must not be negative, is ${value}; -1 is no limit`);
  }
  const { period = 0, quota = 0 } = cpu;
  // min_cfs_quota_period and max_cfs_quota_period of kernel/sched/core.c.
  if (period !== 0 && (period < 1000 || period > 1_000_000))
    throw refuseSetting(context, 'cpu.period', `must be 1000 to 1000000 microseconds, is ${period}`);
  if (quota > 0 && quota < 1000)
    throw refuseSetting(
      context,
      'cpu.quota',
      `must be at least 1000 microseconds, is ${quota}; -1 is no limit`,
    );
  for (const field of ['cpus', 'mems'] as const) {
    const list = cpu[field] ?? '';
    // With a stride, "0-31:2/4", and "all" as well (Documentation/admin-guide/cpu-lists.rst).
    if (list !== 'all' && !/^[\d\s,:/-]*$/.test(list))
      throw refuseSetting(
        context,
        `cpu.${field}`,
        `must be a list such as "0-3,7", is ${JSON.stringify(list)}`,
      );
  }
}

export function cpusetSettings(cpu: LinuxCPU): Setting[] {
  const settings: Setting[] = [];
  if (cpu.cpus)
    settings.push({ controller: 'cpuset', file: 'cpuset.cpus', value: cpu.cpus, field: 'cpu.cpus' });
  if (cpu.mems)
    settings.push({ controller: 'cpuset', file: 'cpuset.mems', value: cpu.mems, field: 'cpu.mems' });
  return settings;
}

function memorySettings(memory: LinuxMemory, context: SettingsContext): Setting[] {
  const settings: Setting[] = [];
  const add = (file: string, value: string, field: string, ignore?: readonly number[]): void => {
    settings.push({
      controller: 'memory',
      file,
      value,
      field: `memory.${field}`,
      ...(ignore ? { ignore } : {}),
    });
  };
  const { limit = 0, swap = 0, reservation = 0, swappiness } = memory;
  if (swap > 0 && limit > swap) {
    throw refuseSetting(
      context,
      'memory.swap',
      'is memory and swap together, so it must not be below memory.limit',
    );
  }
  if (limit !== 0) add('memory.limit_in_bytes', decimal(limit), 'limit');
  if (swap !== 0) add('memory.memsw.limit_in_bytes', decimal(swap), 'swap');
  // Unlimited memory means unlimited swap too, unless said otherwise; a kernel may have no swap accounting.
  else if (limit === -1) add('memory.memsw.limit_in_bytes', '-1', 'limit', absent);
  if (reservation !== 0) add('memory.soft_limit_in_bytes', decimal(reservation), 'reservation');
  if (memory.disableOOMKiller === true) add('memory.oom_control', '1', 'disableOOMKiller');
  if (swappiness !== undefined && swappiness !== -1) {
    checkSwappiness(swappiness, context);
    add('memory.swappiness', decimal(swappiness), 'swappiness');
  }
  warnKernelMemory(memory, context);
  return settings;
}

export function checkSwappiness(swappiness: number, context: SettingsContext): void {
  if (swappiness < 0 || swappiness > 100)
    throw refuseSetting(context, 'memory.swappiness', 'must be 0 to 100');
}

/** The kernel took kmem limits away in 5.11 (they had long been harmful); runc and crun pass them over too. */
export function warnKernelMemory(memory: LinuxMemory, context: SettingsContext): void {
  if (memory.kernel || memory.kernelTCP)
    context.warn('linux.resources.memory.kernel is passed over: the kernel has no such limit');
}

function cpuSettings(cpu: LinuxCPU, context: SettingsContext): Setting[] {
  const settings: Setting[] = [];
  const add = (file: string, value: number | undefined, field: string, ignore?: readonly number[]): void => {
    if (value === undefined || value === 0) return;
    settings.push({
      controller: 'cpu',
      file,
      value: decimal(value),
      field: `cpu.${field}`,
      ...(ignore ? { ignore } : {}),
    });
  };
  // The kernel clamps silently; people should know.
  if (cpu.shares !== undefined && cpu.shares !== 0 && (cpu.shares < 2 || cpu.shares > 262144)) {
    throw refuseSetting(context, 'cpu.shares', 'must be 2 to 262144');
  }
  add('cpu.rt_period_us', cpu.realtimePeriod, 'realtimePeriod');
  add('cpu.rt_runtime_us', cpu.realtimeRuntime, 'realtimeRuntime');
  add('cpu.shares', cpu.shares, 'shares');
  add('cpu.cfs_period_us', cpu.period, 'period');
  add('cpu.cfs_quota_us', cpu.quota, 'quota');
  if (cpu.burst !== undefined) {
    // Since Linux 5.14; nothing is lost without.
    settings.push({
      controller: 'cpu',
      file: 'cpu.cfs_burst_us',
      value: decimal(cpu.burst),
      field: 'cpu.burst',
      ignore: absent,
    });
  }
  if (cpu.idle !== undefined) {
    settings.push({ controller: 'cpu', file: 'cpu.idle', value: decimal(cpu.idle), field: 'cpu.idle' });
  }
  return settings;
}

/** 0 becomes 1 (both keep the container from forking; systemd does not know 0), below 0 is no limit. */
export function pidsSettings(resources: LinuxResources): Setting[] {
  const limit = resources.pids?.limit;
  if (limit === undefined) return [];
  const value = limit > 0 ? decimal(limit) : limit === 0 ? '1' : 'max';
  return [{ controller: 'pids', file: 'pids.max', value, field: 'pids.limit' }];
}

/** Weights are those of the BFQ scheduler: CFQ, which had blkio.weight, left in Linux 5.0, older than what we need. */
function blkioSettings(blockIO: LinuxBlockIO): Setting[] {
  const settings: Setting[] = [];
  const add = (file: string, value: string, field: string): void => {
    settings.push({ controller: 'blkio', file, value, field: `blockIO.${field}` });
  };
  if (blockIO.weight) add('blkio.bfq.weight', decimal(blockIO.weight), 'weight');
  if (blockIO.leafWeight) add('blkio.leaf_weight', decimal(blockIO.leafWeight), 'leafWeight');
  for (const { major, minor, weight, leafWeight } of blockIO.weightDevice ?? []) {
    if (weight) add('blkio.bfq.weight_device', `${major}:${minor} ${weight}`, 'weightDevice');
    if (leafWeight) add('blkio.leaf_weight_device', `${major}:${minor} ${leafWeight}`, 'weightDevice');
  }
  for (const { file, field, devices } of throttles(blockIO)) {
    for (const { major, minor, rate } of devices)
      add(`blkio.throttle.${file}`, `${major}:${minor} ${decimal(rate)}`, field);
  }
  return settings;
}

/** The four throttles: v1 file, v2 key, field and devices. */
export function throttles(blockIO: LinuxBlockIO) {
  return [
    {
      file: 'read_bps_device',
      key: 'rbps',
      field: 'throttleReadBpsDevice',
      devices: blockIO.throttleReadBpsDevice ?? [],
    },
    {
      file: 'write_bps_device',
      key: 'wbps',
      field: 'throttleWriteBpsDevice',
      devices: blockIO.throttleWriteBpsDevice ?? [],
    },
    {
      file: 'read_iops_device',
      key: 'riops',
      field: 'throttleReadIOPSDevice',
      devices: blockIO.throttleReadIOPSDevice ?? [],
    },
    {
      file: 'write_iops_device',
      key: 'wiops',
      field: 'throttleWriteIOPSDevice',
      devices: blockIO.throttleWriteIOPSDevice ?? [],
    },
  ];
}

/** Both the usage and, since Linux 5.7, the reservation limit, so that mmap fails instead of a later fault. */
export function hugetlbSettings(resources: LinuxResources, suffix: 'limit_in_bytes' | 'max'): Setting[] {
  return (resources.hugepageLimits ?? []).flatMap(({ pageSize, limit }) => {
    const base = { controller: 'hugetlb', value: decimal(limit), field: 'hugepageLimits' };
    return [
      { ...base, file: `hugetlb.${pageSize}.${suffix}` },
      { ...base, file: `hugetlb.${pageSize}.rsvd.${suffix}`, ignore: absent },
    ];
  });
}

function networkSettings(resources: LinuxResources): Setting[] {
  const { classID, priorities = [] } = resources.network ?? {};
  const settings: Setting[] = [];
  if (classID)
    settings.push({
      controller: 'net_cls',
      file: 'net_cls.classid',
      value: decimal(classID),
      field: 'network.classID',
    });
  for (const { name, priority } of priorities) {
    settings.push({
      controller: 'net_prio',
      file: 'net_prio.ifpriomap',
      value: `${name} ${priority}`,
      field: 'network.priorities',
    });
  }
  return settings;
}

export function rdmaSettings(resources: LinuxResources): Setting[] {
  return Object.entries(resources.rdma ?? {}).map(([device, { hcaHandles, hcaObjects }]) => {
    const parts = [device];
    if (hcaHandles !== undefined) parts.push(`hca_handle=${decimal(hcaHandles)}`);
    if (hcaObjects !== undefined) parts.push(`hca_object=${decimal(hcaObjects)}`);
    return { controller: 'rdma', file: 'rdma.max', value: parts.join(' '), field: `rdma.${device}` };
  });
}
