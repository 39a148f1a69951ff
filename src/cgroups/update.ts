/**
 * New limits for a running container (`update`). Files that the kernel checks against each other (memory and swap, quota
 * and period and burst) must be written in an order that depends on the present values; instead of reading those, a
 * write that is refused is tried again after the others, for as long as some write succeeds.
 */
import { dirname } from 'node:path';
import { errnoNumber } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxResources } from '../oci/types.ts';
import { cgroupError, errnoOf, readText, writeText } from './files.ts';
import type { CgroupLayout } from './host.ts';
import { controllerPath, type CgroupView } from './path.ts';
import { settingDirectory } from './plan.ts';
import { restoringValue } from './restore.ts';
import { resourceSettings, type PlacedSetting } from './settings.ts';

export interface UpdateOptions {
  id: string;
  warn?: (message: string) => void;
}

/**
 * Writes `resources` to the container's cgroups. Devices are left alone, as runc's `update` leaves them: they were
 * decided at create. Throws for the first file that refuses its value, naming both; what was written before is put back.
 */
export function applyResources(
  view: CgroupView,
  layout: CgroupLayout,
  resources: LinuxResources,
  options: UpdateOptions,
): void {
  const { id, warn = () => {} } = options;
  checkMemoryUsage(view, resources, id);
  /** What leads back, last write first. */
  const written: PlacedSetting[] = [];
  let pending = resourceSettings(resources, { op: 'update', id, layout, warn });
  while (pending.length > 0) {
    const refused: { setting: PlacedSetting; error: unknown }[] = [];
    for (const setting of pending) {
      const before = presentValue(setting, view);
      const error = tryWrite(setting, view);
      if (error !== undefined) refused.push({ setting, error });
      else if (before !== undefined) written.unshift({ ...setting, value: before });
    }
    if (refused.length === pending.length) {
      const [first] = refused;
      if (first === undefined) return;
      for (const { field } of putBack(written, view)) warn(`linux.resources.${field} could not be put back`);
      throw writeError(first.setting, first.error, view, id);
    }
    pending = refused.map(({ setting }) => setting);
  }
}

/** What to write to go back to what a file says now; undefined when it cannot be had. */
function presentValue(setting: PlacedSetting, view: CgroupView): string | undefined {
  try {
    const text = readText(`${settingDirectory(setting, view)}/${setting.file}`);
    return text === undefined ? undefined : restoringValue(setting.file, setting.value, text);
  } catch {
    return undefined;
  }
}

/** Writes in whatever order the kernel takes; returns what it refused. */
function putBack(settings: PlacedSetting[], view: CgroupView): PlacedSetting[] {
  const refused = settings.filter((setting) => tryWrite(setting, view) !== undefined);
  return refused.length === 0 || refused.length === settings.length ? refused : putBack(refused, view);
}

/** undefined when written or when the setting says that the error does not matter. */
function tryWrite(setting: PlacedSetting, view: CgroupView): unknown {
  try {
    writeText(`${settingDirectory(setting, view)}/${setting.file}`, setting.value);
    return undefined;
  } catch (error) {
    const errno = errnoNumber(errnoOf(error) ?? '');
    return errno !== undefined && setting.ignore?.includes(errno) ? undefined : error;
  }
}

function writeError(setting: PlacedSetting, error: unknown, view: CgroupView, id: string): RuntimeError {
  const path = `${settingDirectory(setting, view)}/${setting.file}`;
  const object = `write ${JSON.stringify(setting.value)} to ${path} (linux.resources.${setting.field})`;
  const above =
    setting.controller === 'cpuset' && readText(`${dirname(dirname(path))}/${setting.file}`)?.trim();
  if (above && ['EINVAL', 'ERANGE', 'EACCES'].includes(errnoOf(error) ?? '')) {
    return new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'update',
      id,
      object,
      reason: `not all of them can be had: the cgroup above has ${above}`,
      path,
      errno: errnoOf(error),
      cause: error,
    });
  }
  if (errnoOf(error) !== 'EBUSY' || setting.file !== 'memory.limit_in_bytes') {
    return cgroupError('update', id, object, error, path);
  }
  // v1 refuses a limit below what cannot be reclaimed.
  const directory = controllerPath(view, 'memory') ?? '';
  const usage = readText(`${directory}/memory.usage_in_bytes`)?.trim();
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'update',
    id,
    object,
    reason: `device or resource busy: the container uses ${usage ?? 'more'} bytes`,
    path,
    errno: 'EBUSY',
    cause: error,
  });
}

/** memory.checkBeforeUpdate: a limit below the present usage is refused instead of reclaiming or killing. */
function checkMemoryUsage(view: CgroupView, resources: LinuxResources, id: string): void {
  const { memory } = resources;
  if (memory?.checkBeforeUpdate !== true) return;
  const v1 = controllerPath(view, 'memory');
  const file =
    v1 !== undefined ? `${v1}/memory.usage_in_bytes` : `${view.unified?.path ?? ''}/memory.current`;
  const text = readText(file);
  if (text === undefined) return;
  const usage = Number(text.trim());
  for (const field of ['limit', 'swap'] as const) {
    const value = memory[field] ?? 0;
    if (value <= 0 || value > usage) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'update',
      id,
      object: `linux.resources.memory.${field}`,
      reason: `${value} is not above the present usage of ${usage} bytes`,
      remedy: 'leave out memory.checkBeforeUpdate to set it all the same',
    });
  }
}
