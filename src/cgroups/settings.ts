/**
 * Resources as writes to cgroup files. One list serves create (steps of the launch plan) and update (writes at once).
 * Pure; the files are those of Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxResources } from '../oci/types.ts';
import type { CgroupLayout } from './host.ts';
import type { Setting, SettingsContext } from './setting.ts';
import { v1Settings } from './settings_v1.ts';
import { unifiedSettings, v2Settings } from './settings_v2.ts';

/** A setting and the hierarchy it goes to. */
export interface PlacedSetting extends Setting {
  hierarchy: 'v1' | 'unified';
}

/** Names of the v1 controllers' successors. */
const v2Names: Record<string, string> = { blkio: 'io', cpuset: 'cpuset', cpu: 'cpu', memory: 'memory' };

/** The v2 name of a v1 controller. */
export function v2ControllerName(controller: string): string {
  return v2Names[controller] ?? controller;
}

/**
 * Every write that `resources` ask for (devices aside), each placed where its controller lives: in its v1 hierarchy, or
 * in the unified one. FailedPrecondition when a limit asks for a controller that the host does not have.
 */
export function resourceSettings(resources: LinuxResources, context: SettingsContext): PlacedSetting[] {
  const { layout } = context;
  const v1 = layout.mode === 'v2' ? [] : v1Settings(resources, context);
  const placed: PlacedSetting[] = [];
  const inUnified = new Set<string>();
  for (const setting of v1) {
    if (layout.hierarchies.some(({ names }) => names.includes(setting.controller))) {
      placed.push({ ...setting, hierarchy: 'v1' });
    } else if (unifiedHas(layout, setting.controller)) {
      inUnified.add(setting.controller);
    } else {
      throw missingController(setting, context);
    }
  }
  if (layout.mode === 'v2' || inUnified.size > 0) {
    for (const setting of v2Settings(resources, context)) {
      if (layout.mode !== 'v2' && !inUnified.has(setting.controller)) continue;
      if (!unifiedHas(layout, setting.controller)) throw missingController(setting, context);
      placed.push({ ...setting, hierarchy: 'unified' });
    }
  }
  for (const setting of unifiedSettings(resources, context))
    placed.push({ ...setting, hierarchy: 'unified' });
  return placed;
}

function unifiedHas(layout: CgroupLayout, controller: string): boolean {
  return layout.unified?.controllers.includes(v2ControllerName(controller)) ?? false;
}

function missingController(setting: Setting, context: SettingsContext): RuntimeError {
  const name = context.layout.mode === 'v2' ? v2ControllerName(setting.controller) : setting.controller;
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: context.op,
    id: context.id,
    object: `linux.resources.${setting.field}`,
    reason: `this host has no cgroup controller ${JSON.stringify(name)}`,
    remedy: 'leave the limit out, or boot a kernel with the controller enabled',
  });
}
