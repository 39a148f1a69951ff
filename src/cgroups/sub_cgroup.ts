/** Cgroups below the container's own that an exec asks for (`exec --cgroup`, as runc has it). */
import { existsSync } from 'node:fs';
import { posix } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { CgroupView } from './path.ts';

/**
 * The view with some directories replaced by ones below them. A spec is "PATH" (every hierarchy) or
 * "CONTROLLER[,CONTROLLER…]:PATH". InvalidArgument for an unknown controller, a controller given twice and a path that
 * leaves the container's cgroup; NotFound for a directory that is not there.
 */
export function subCgroupView(view: CgroupView, specs: readonly string[], id: string): CgroupView {
  if (specs.length === 0) return view;
  const byController = new Map<string, string>();
  let common: string | undefined;
  for (const spec of specs) {
    const colon = spec.indexOf(':');
    const path = colon < 0 ? spec : spec.slice(colon + 1);
    if (colon < 0) {
      if (common !== undefined) throw refused(id, spec, 'a path for every hierarchy is given twice');
      common = path;
      continue;
    }
    for (const controller of spec.slice(0, colon).split(',')) {
      const name = controller === 'systemd' ? 'name=systemd' : controller;
      if (!view.hierarchies.some(({ names }) => names.includes(name))) {
        throw refused(id, spec, `no cgroup hierarchy has the controller "${controller}"`);
      }
      if (byController.has(name)) throw refused(id, spec, `the controller "${controller}" is given twice`);
      byController.set(name, path);
    }
  }
  const below = <T extends { path: string }>(directory: T, path: string | undefined): T =>
    path === undefined ? directory : { ...directory, path: checked(id, directory.path, path) };
  const hierarchies = view.hierarchies.map((hierarchy) => {
    const own = hierarchy.names.map((name) => byController.get(name)).find((path) => path !== undefined);
    return below(hierarchy, own ?? common);
  });
  const { unified } = view;
  return { ...view, hierarchies, ...(unified === undefined ? {} : { unified: below(unified, common) }) };
}

function checked(id: string, base: string, path: string): string {
  const full = posix.join(base, path);
  if (full !== base && !full.startsWith(`${base}/`))
    throw refused(id, path, 'bad sub cgroup path: outside the container’s');
  if (existsSync(full)) return full;
  throw new RuntimeError({
    code: ErrorCode.NotFound,
    op: 'exec',
    id,
    object: `cgroup ${full}`,
    reason: 'no such directory',
    path: full,
  });
}

function refused(id: string, spec: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'exec',
    id,
    object: `sub-cgroup ${JSON.stringify(spec)}`,
    reason,
  });
}
