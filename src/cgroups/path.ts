/**
 * From `linux.cgroupsPath` to directories (runtime-spec, config-linux "Cgroups Path"), as runc's cgroupfs driver does:
 *
 *   /default/web-1      absolute: below the mount point of every hierarchy
 *   pods/web-1          relative: v1 below the runtime's own cgroup, v2 beside it (a cgroup with processes cannot
 *                       hand controllers to children)
 *   (empty)             as the relative path ID
 */
import { posix } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { CgroupLayout, CgroupMode, Hierarchy } from './host.ts';

/** A container's directories, one a hierarchy. */
export interface CgroupView {
  mode: CgroupMode;
  /** v1 hierarchies; `path` is the container's directory on the host. */
  hierarchies: { names: string[]; mountPoint: string; path: string }[];
  unified?: { mountPoint: string; path: string } | undefined;
}

/** Who makes cgroups: this runtime by files, or systemd over D-Bus. */
export type CgroupDriver = 'cgroupfs' | 'systemd';

export interface CgroupLocation {
  driver: CgroupDriver;
  /** Cleaned cgroupsPath, without "..": absolute or relative. */
  name: string;
}

/** Reads a cgroupsPath. InvalidArgument for one that the driver cannot use. */
export function parseCgroupsPath(cgroupsPath: string | undefined, id: string, op = 'create'): CgroupLocation {
  const given = cgroupsPath ?? '';
  const refuse = (reason: string, remedy?: string): RuntimeError =>
    new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `linux.cgroupsPath ${JSON.stringify(given.slice(0, 128))}`,
      reason,
      remedy,
    });
  if (/^[^/:]*:[^/:]*:[^/:]+$/.test(given)) {
    throw refuse(
      'is in the form slice:prefix:name of the systemd cgroup driver, which this version does not have',
      'set SystemdCgroup = false, or give a path such as /default/NAME',
    );
  }
  if (/[\0\n]/.test(given)) throw refuse('holds a NUL or a newline');
  if (given === '') return { driver: 'cgroupfs', name: id };
  const absolute = posix.isAbsolute(given);
  // Cleaned as below "/", so that ".." cannot climb out of the hierarchy.
  const cleaned = posix.normalize(`/${given}`).replace(/\/+$/, '');
  if (cleaned === '') throw refuse('names the root of the hierarchy');
  if (cleaned.split('/').some((part) => Buffer.byteLength(part) > 255))
    throw refuse('has a part longer than 255 bytes');
  return { driver: 'cgroupfs', name: absolute ? cleaned : cleaned.slice(1) };
}

/** The directories that a location means on this host. Hierarchies keep the layout's order. */
export function locateCgroup(location: CgroupLocation, layout: CgroupLayout): CgroupView {
  const { name } = location;
  const below = (hierarchy: Hierarchy, parent: string): string =>
    name.startsWith('/') ? hierarchy.mountPoint + name : posix.join(hierarchy.mountPoint, parent, name);
  const view: CgroupView = {
    mode: layout.mode,
    hierarchies: layout.hierarchies.map((hierarchy) => ({
      names: hierarchy.names,
      mountPoint: hierarchy.mountPoint,
      path: below(hierarchy, shownPath(hierarchy)),
    })),
  };
  const { unified } = layout;
  if (unified !== undefined) {
    view.unified = {
      mountPoint: unified.mountPoint,
      path: below(unified, posix.dirname(shownPath(unified))),
    };
  }
  return view;
}

/** Own cgroup as seen at the mount point: in a container without a cgroup namespace the mount shows a part only. */
function shownPath(hierarchy: Hierarchy): string {
  const { root, ownPath } = hierarchy;
  if (root === '/') return ownPath;
  if (ownPath === root) return '/';
  return ownPath.startsWith(`${root}/`) ? ownPath.slice(root.length) : '/';
}

/** The view that `paths` (a record's cgroup_paths) came from. */
export function viewOfPaths(layout: CgroupLayout, paths: readonly string[]): CgroupView {
  const pathIn = (mountPoint: string): string | undefined =>
    paths.find((path) => path.startsWith(`${mountPoint}/`));
  const view: CgroupView = { mode: layout.mode, hierarchies: [] };
  for (const { names, mountPoint } of layout.hierarchies) {
    const path = pathIn(mountPoint);
    if (path !== undefined) view.hierarchies.push({ names, mountPoint, path });
  }
  const { unified } = layout;
  const path = unified === undefined ? undefined : pathIn(unified.mountPoint);
  if (unified !== undefined && path !== undefined) view.unified = { mountPoint: unified.mountPoint, path };
  return view;
}

/** Every directory of a view, v1 first. */
export function pathsOfView(view: CgroupView): string[] {
  const paths = view.hierarchies.map(({ path }) => path);
  return view.unified === undefined ? paths : [...paths, view.unified.path];
}

/** The directory of the hierarchy that has a v1 controller; undefined when none is mounted. */
export function controllerPath(view: CgroupView, controller: string): string | undefined {
  return view.hierarchies.find(({ names }) => names.includes(controller))?.path;
}
