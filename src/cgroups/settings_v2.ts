/** Resources as files of the unified hierarchy; what config.json says in v1's terms is converted. */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxBlockIO, LinuxCPU, LinuxMemory, LinuxResources } from '../oci/types.ts';
import { blkioWeightToIoWeight, decimal, decimalOrMax, sharesToWeight, swapToV2 } from './convert.ts';
import { absent, refuseSetting, type Setting, type SettingsContext } from './setting.ts';
import {
  checkSwappiness,
  checkValues,
  cpusetSettings,
  hugetlbSettings,
  pidsSettings,
  rdmaSettings,
  throttles,
  warnKernelMemory,
} from './settings_v1.ts';

/** In an order that a fresh cgroup accepts: bandwidth before burst, swap before memory. */
export function v2Settings(resources: LinuxResources, context: SettingsContext): Setting[] {
  refuseNetwork(resources, context);
  checkValues(resources, context);
  return [
    ...pidsSettings(resources),
    ...memorySettings(resources.memory ?? {}, context),
    ...ioSettings(resources.blockIO ?? {}, context),
    ...cpuSettings(resources.cpu ?? {}, context),
    ...cpusetSettings(resources.cpu ?? {}),
    ...hugetlbSettings(resources, 'max'),
    ...rdmaSettings(resources),
  ];
}

/** `linux.resources.unified`: a write a line, after everything else; only where cgroup2 is in charge. */
export function unifiedSettings(resources: LinuxResources, context: SettingsContext): Setting[] {
  const entries = Object.entries(resources.unified ?? {});
  if (entries.length === 0) return [];
  const { layout } = context;
  if (layout.mode !== 'v2') throw refuseSetting(context, 'unified', 'needs a host with cgroup v2 only');
  return entries.flatMap(([file, text]) => {
    const field = `unified[${JSON.stringify(file)}]`;
    if (!/^[a-z]+\.[A-Za-z0-9_.]+$/.test(file)) {
      throw refuseSetting(context, field, 'must be a file name in the form CONTROLLER.PARAMETER');
    }
    const controller = file.slice(0, file.indexOf('.'));
    if (controller !== 'cgroup' && !layout.unified?.controllers.includes(controller)) {
      throw new RuntimeError({
        code: ErrorCode.FailedPrecondition,
        op: context.op,
        id: context.id,
        object: `linux.resources.${field}`,
        reason: `this host has no cgroup controller ${JSON.stringify(controller)}`,
      });
    }
    const lines = text.split('\n').filter((line) => line !== '');
    return lines.map((value) => ({ controller: '', file, value, field }));
  });
}

function memorySettings(memory: LinuxMemory, context: SettingsContext): Setting[] {
  const settings: Setting[] = [];
  const { limit = 0, reservation = 0 } = memory;
  const swap = swapToV2(memory.swap, memory.limit);
  if (typeof swap === 'object') throw refuseSetting(context, 'memory.swap', swap.fault);
  if (swap !== undefined) {
    const value = decimalOrMax(swap);
    const base = { controller: 'memory', file: 'memory.swap.max', value, field: 'memory.swap' };
    // A kernel without swap accounting has no swap to limit.
    settings.push(value === 'max' || value === '0' ? { ...base, ignore: absent } : base);
  }
  if (limit !== 0)
    settings.push({
      controller: 'memory',
      file: 'memory.max',
      value: decimalOrMax(limit),
      field: 'memory.limit',
    });
  if (reservation !== 0) {
    settings.push({
      controller: 'memory',
      file: 'memory.low',
      value: decimalOrMax(reservation),
      field: 'memory.reservation',
    });
  }
  if (memory.swappiness !== undefined && memory.swappiness !== -1) {
    checkSwappiness(memory.swappiness, context);
    context.warn('linux.resources.memory.swappiness is passed over: cgroup v2 has no such setting');
  }
  if (memory.disableOOMKiller === true) {
    context.warn('linux.resources.memory.disableOOMKiller is passed over: cgroup v2 has no such setting');
  }
  warnKernelMemory(memory, context);
  return settings;
}

function cpuSettings(cpu: LinuxCPU, context: SettingsContext): Setting[] {
  if (cpu.realtimePeriod || cpu.realtimeRuntime) {
    throw refuseSetting(
      context,
      cpu.realtimeRuntime ? 'cpu.realtimeRuntime' : 'cpu.realtimePeriod',
      'cgroup v2 has no real-time bandwidth',
    );
  }
  const settings: Setting[] = [];
  const add = (file: string, value: string, field: string): void => {
    settings.push({ controller: 'cpu', file, value, field: `cpu.${field}` });
  };
  if (cpu.idle !== undefined) add('cpu.idle', decimal(cpu.idle), 'idle');
  if (cpu.shares) add('cpu.weight', decimal(sharesToWeight(cpu.shares)), 'shares');
  const { quota = 0, period = 0 } = cpu;
  if (quota !== 0 || period !== 0) {
    const max = quota > 0 ? decimal(quota) : 'max';
    add('cpu.max', `${max} ${period === 0 ? '100000' : decimal(period)}`, quota === 0 ? 'period' : 'quota');
  }
  if (cpu.burst !== undefined) add('cpu.max.burst', decimal(cpu.burst), 'burst');
  return settings;
}

function ioSettings(blockIO: LinuxBlockIO, context: SettingsContext): Setting[] {
  const settings: Setting[] = [];
  const bfq = context.layout.unified?.weightFiles.includes('io.bfq.weight') ?? false;
  const add = (file: string, value: string, field: string): void => {
    settings.push({ controller: 'blkio', file, value, field: `blockIO.${field}` });
  };
  if (blockIO.weight) {
    if (bfq) add('io.bfq.weight', decimal(blockIO.weight), 'weight');
    else add('io.weight', decimal(blkioWeightToIoWeight(blockIO.weight)), 'weight');
  }
  for (const { major, minor, weight } of blockIO.weightDevice ?? []) {
    if (!weight) continue;
    if (bfq) add('io.bfq.weight', `${major}:${minor} ${weight}`, 'weightDevice');
    else add('io.weight', `${major}:${minor} ${blkioWeightToIoWeight(weight)}`, 'weightDevice');
  }
  if (blockIO.leafWeight || blockIO.weightDevice?.some(({ leafWeight }) => leafWeight)) {
    context.warn('linux.resources.blockIO.leafWeight is passed over: cgroup v2 has no such setting');
  }
  for (const { key, field, devices } of throttles(blockIO)) {
    for (const { major, minor, rate } of devices) {
      // 0 lifts a throttle in v1.
      add('io.max', `${major}:${minor} ${key}=${rate === 0 ? 'max' : decimal(rate)}`, field);
    }
  }
  return settings;
}

function refuseNetwork(resources: LinuxResources, context: SettingsContext): void {
  if (context.layout.mode !== 'v2') return;
  if (resources.network?.classID)
    throw refuseSetting(context, 'network.classID', 'cgroup v2 has no net_cls controller');
  if (resources.network?.priorities?.length) {
    throw refuseSetting(context, 'network.priorities', 'cgroup v2 has no net_prio controller');
  }
}
