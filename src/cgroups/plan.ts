/**
 * What a container's cgroups add to its launch plan. Pure: same resources, layout and path, same steps.
 *
 *   MakeCgroup (every hierarchy) → limits → device rules → JoinCgroup (every hierarchy)
 *
 * Joining comes last, so that not one instruction of the container runs outside its limits.
 */
import { posix } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import type { LinuxResources } from '../oci/types.ts';
import { compileDeviceProgram } from './device_program.ts';
import { deviceListV1, deviceRules } from './device_rules.ts';
import { parseOwnCgroups, type CgroupLayout } from './host.ts';
import { controllerPath, locateCgroup, pathsOfView, type CgroupLocation, type CgroupView } from './path.ts';
import type { SettingsContext } from './setting.ts';
import { resourceSettings, v2ControllerName, type PlacedSetting } from './settings.ts';

type Step = bulkhead.plan.v1.IStep;

export interface CgroupOptions {
  id: string;
  op?: string;
}

export interface CgroupContribution {
  /** Steps of the outer stage, before Clone. */
  outer: Step[];
  view: CgroupView;
  /** Directories made for the container, in the order they are made; what `removeCgroups` takes. */
  paths: string[];
  /** What was asked for and cannot matter on this host. */
  warnings: string[];
}

const encoder = new TextEncoder();

/**
 * The steps that make a container's cgroups, set `resources` and move the process in. InvalidArgument or
 * FailedPrecondition for resources that this host cannot give.
 */
export function contributeCgroups(
  resources: LinuxResources | undefined,
  layout: CgroupLayout,
  location: CgroupLocation,
  options: CgroupOptions,
): CgroupContribution {
  const { id, op = 'create' } = options;
  const warnings: string[] = [];
  const context: SettingsContext = { op, id, layout, warn: (message) => warnings.push(message) };
  const view = locateCgroup(location, layout);
  const settings = resourceSettings(resources ?? {}, context);
  return {
    outer: [
      ...makeSteps(view, layout, settings),
      ...settings.map((setting) => settingStep(setting, view)),
      ...deviceSteps(resources, view, context),
      ...joinSteps(view),
    ],
    view,
    paths: pathsOfView(view),
    warnings,
  };
}

function makeSteps(view: CgroupView, layout: CgroupLayout, settings: readonly PlacedSetting[]): Step[] {
  const steps: Step[] = view.hierarchies.map(({ names, path }) => ({
    makeCgroup: { path, inheritCpuset: names.includes('cpuset'), enableControllers: [] },
  }));
  if (view.unified !== undefined) {
    const enableControllers = controllersToEnable(layout, settings);
    steps.push({ makeCgroup: { path: view.unified.path, inheritCpuset: false, enableControllers } });
  }
  return steps;
}

/** v2: all, for metrics as well as limits. Hybrid: those that a limit needs, as the rest of the host is v1's. */
function controllersToEnable(layout: CgroupLayout, settings: readonly PlacedSetting[]): string[] {
  const available = layout.unified?.controllers ?? [];
  if (layout.mode === 'v2') return available;
  const needed = new Set(
    settings
      .filter(({ hierarchy }) => hierarchy === 'unified')
      .map(({ controller }) => v2ControllerName(controller)),
  );
  return available.filter((name) => needed.has(name));
}

/** Directory that a setting is written in. */
export function settingDirectory(setting: PlacedSetting, view: CgroupView): string {
  const directory =
    setting.hierarchy === 'v1' ? controllerPath(view, setting.controller) : view.unified?.path;
  if (directory !== undefined) return directory;
  throw new RuntimeError({
    code: ErrorCode.Internal,
    op: 'cgroups',
    object: `linux.resources.${setting.field}`,
    reason: 'the container has no cgroup in this hierarchy',
  });
}

function settingStep(setting: PlacedSetting, view: CgroupView): Step {
  const path = `${settingDirectory(setting, view)}/${setting.file}`;
  return { writeFile: writeOf(path, setting.value, setting.ignore) };
}

function writeOf(path: string, value: string, ignore: readonly number[] = []): bulkhead.plan.v1.IWriteFile {
  return { path, data: encoder.encode(value), ignoreErrno: [...ignore], retries: 0 };
}

/** Without a devices controller a container could reach every device of the host by mknod: that is refused. */
function deviceSteps(
  resources: LinuxResources | undefined,
  view: CgroupView,
  context: SettingsContext,
): Step[] {
  const rules = deviceRules(resources?.devices ?? [], context.id, context.op);
  const directory = controllerPath(view, 'devices');
  if (directory !== undefined) {
    const list = deviceListV1(rules, context.id, context.op);
    return [
      { writeFile: writeOf(`${directory}/${list.first}`, 'a') },
      ...list.lines.map((line): Step => ({ writeFile: writeOf(`${directory}/${list.then}`, line) })),
    ];
  }
  if (view.unified !== undefined) {
    return [
      { attachDeviceProgram: { cgroup: view.unified.path, instructions: compileDeviceProgram(rules) } },
    ];
  }
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: context.op,
    id: context.id,
    object: 'linux.resources.devices',
    reason: 'this host has no cgroup controller "devices"',
    remedy: 'mount it, or mount cgroup2',
  });
}

/**
 * Moves what the plan starts into every directory of `view`: the process that carries it out on v1, the one that Clone
 * makes in the unified hierarchy. Both ways spare the 6-20 ms that a write to cgroup.procs waits (launch_plan.proto).
 */
export function joinSteps(view: CgroupView): Step[] {
  const steps: Step[] = view.hierarchies.map(({ path }) => ({ joinCgroup: { path, singleThread: true } }));
  if (view.unified !== undefined) steps.push({ joinCgroup: { path: view.unified.path, atClone: true } });
  return steps;
}

/**
 * Steps that move an exec in. In the unified hierarchy a container's init may have made cgroups of its own and moved
 * down (then the container's directory holds controllers and refuses processes: EBUSY); an exec follows it there.
 * `initCgroups` is /proc/PID/cgroup of the init as the host sees it; a path outside the container's is not followed.
 */
export function execJoinSteps(view: CgroupView, initCgroups: string): Step[] {
  const { unified } = view;
  if (unified === undefined) return joinSteps(view);
  const own = parseOwnCgroups(initCgroups).find(({ names }) => names.length === 0)?.path;
  const initPath = own === undefined ? unified.path : posix.join(unified.mountPoint, own);
  const below = initPath.startsWith(`${unified.path}/`) ? initPath : unified.path;
  return joinSteps({ ...view, unified: { ...unified, path: below } });
}
