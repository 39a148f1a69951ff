/**
 * Container edits on an OCI configuration (SPEC.md, "OCI Edits"), in the reference implementation's order, which
 * callers rely on: environment, device nodes, net devices, mounts, hooks, RDT, groups. Pure: what the host has to say
 * of device nodes is filled in before (completeNodes).
 */
import { cleanAbsolute } from '../../oci/paths.ts';
import type { Hook, Hooks, LinuxDevice, Mount, Spec } from '../../oci/types.ts';
import { ShapeError } from '../../oci/validate/shape.ts';
import { CdiError } from './error.ts';
import { editsShape } from './shapes.ts';
import type { CdiHook, CdiMount, ContainerEdits, DeviceNode } from './types.ts';

/** A device node of the host, as lstat(2) shows it. */
export interface HostNode {
  type: 'b' | 'c' | 'p';
  major: number;
  minor: number;
  /** Permission bits. */
  mode: number;
  /** Its group; 0 is root's. */
  gid?: number;
}

/** Looks a path of the host up without following a link; undefined when it is absent, or no device or fifo. */
export type NodeLookup = (path: string) => HostNode | undefined;

/** All edits of a request as one. Empty lists are left out. */
export function mergeEdits(all: readonly ContainerEdits[]): ContainerEdits {
  const merged: ContainerEdits = {};
  const join = <K extends 'env' | 'deviceNodes' | 'netDevices' | 'hooks' | 'mounts' | 'additionalGids'>(
    key: K,
  ): void => {
    const joined = all.flatMap((edits): unknown[] => edits[key] ?? []);
    if (joined.length > 0) (merged as Record<string, unknown>)[key] = joined;
  };
  for (const key of ['env', 'deviceNodes', 'netDevices', 'hooks', 'mounts', 'additionalGids'] as const)
    join(key);
  const intelRdt = all.findLast((edits) => edits.intelRdt !== undefined)?.intelRdt;
  if (intelRdt !== undefined) merged.intelRdt = intelRdt;
  return merged;
}

/**
 * Fills in what a spec leaves to the host: type and numbers where they are missing, the mode always. CdiError when a
 * node that is not fully described is not there, or is of another type.
 */
export function completeNodes(edits: ContainerEdits, lookup: NodeLookup): ContainerEdits {
  if (edits.deviceNodes === undefined) return edits;
  return { ...edits, deviceNodes: edits.deviceNodes.map((node) => completeNode(node, lookup)) };
}

function completeNode(node: DeviceNode, lookup: NodeLookup): DeviceNode {
  const type = node.type ?? '';
  const hostPath = node.hostPath === undefined || node.hostPath === '' ? node.path : node.hostPath;
  const described = type !== '' && ((node.major ?? 0) !== 0 || type === 'p');
  const host = lookup(hostPath);
  if (host === undefined) {
    if (described) return { ...node, hostPath };
    throw new CdiError(`device node ${hostPath}`, 'not on this host, or no device node');
  }
  const completed: DeviceNode = { ...node, hostPath, fileMode: node.fileMode ?? host.mode };
  if (described) return completed;
  if (type !== '' && type !== host.type) {
    throw new CdiError(`device node ${hostPath}`, `is of type ${host.type}, the spec says ${type}`);
  }
  completed.type = host.type;
  if (host.type !== 'p' && (node.major ?? 0) === 0) {
    completed.major = host.major;
    completed.minor = host.minor;
  }
  return completed;
}

/** A copy of the configuration with the edits. Checks merged edits once more (two devices may name one interface). */
export function applyEdits(spec: Spec, edits: ContainerEdits): Spec {
  checkEdits(edits);
  const edited = structuredClone(spec);
  applyEnv(edited, edits.env ?? []);
  for (const node of edits.deviceNodes ?? []) applyNode(edited, node);
  for (const { hostInterfaceName, name } of edits.netDevices ?? []) {
    const linux = (edited.linux ??= {});
    linux.netDevices = { ...linux.netDevices, [hostInterfaceName]: { name } };
  }
  applyMounts(edited, edits.mounts ?? []);
  for (const hook of edits.hooks ?? []) applyHook(edited, hook);
  if (edits.intelRdt !== undefined) (edited.linux ??= {}).intelRdt = structuredClone(edits.intelRdt);
  applyGroups(edited, edits.additionalGids ?? []);
  return edited;
}

function checkEdits(edits: ContainerEdits): void {
  try {
    editsShape(edits, '');
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new CdiError(`edits of all devices: ${error.path}`, error.message, error);
  }
}

/** A variable that is there keeps its place. */
function applyEnv(spec: Spec, variables: readonly string[]): void {
  if (variables.length === 0 || spec.process === undefined) return;
  const env = (spec.process.env ??= []);
  const nameOf = (variable: string): string => variable.split('=', 1)[0] ?? '';
  const places = new Map(env.map((variable, index) => [nameOf(variable), index]));
  for (const variable of variables) {
    const place = places.get(nameOf(variable));
    if (place === undefined) places.set(nameOf(variable), env.push(variable) - 1);
    else env[place] = variable;
  }
}

function applyNode(spec: Spec, node: DeviceNode): void {
  const { path, type = '', major = 0, minor = 0, fileMode, permissions = '' } = node;
  const linux = (spec.linux ??= {});
  const device: LinuxDevice = { path, type, major, minor };
  if (fileMode !== undefined) device.fileMode = fileMode;
  const { uid = 0, gid = 0 } = spec.process?.user ?? {};
  const owner = node.uid ?? (uid > 0 ? uid : undefined);
  const group = node.gid ?? (gid > 0 ? gid : undefined);
  if (owner !== undefined) device.uid = owner;
  if (group !== undefined) device.gid = group;
  linux.devices = [...(linux.devices ?? []).filter((other) => other.path !== path), device];
  // "u" is a character device whose reads are not buffered; the reference gives it no rule. "none": no rule is no
  // access, and runc refuses one that is empty.
  if ((type !== 'b' && type !== 'c') || permissions === 'none') return;
  const resources = (linux.resources ??= {});
  const access = permissions === '' ? 'rwm' : permissions;
  resources.devices = [...(resources.devices ?? []), { allow: true, type, major, minor, access }];
}

function applyMounts(spec: Spec, added: readonly CdiMount[]): void {
  if (added.length === 0) return;
  const inUserNamespace = (spec.linux?.namespaces ?? []).some(({ type }) => type === 'user');
  let mounts = spec.mounts ?? [];
  for (const mount of added) {
    // The first of that destination goes, as in the reference library: others are stacked on purpose.
    const replaced = mounts.findIndex(({ destination }) => destination === mount.containerPath);
    mounts = mounts.filter((_, index) => index !== replaced);
    mounts.push(ociMount(mount, inUserNamespace));
  }
  // Array.prototype.sort is stable: mounts of one depth stay in their order.
  spec.mounts = mounts.sort((a, b) => depth(a) - depth(b));
}

/** In a user namespace the files of a bind mount keep their owners only by an id-mapped mount. */
function ociMount({ hostPath, containerPath, type, options }: CdiMount, inUserNamespace: boolean): Mount {
  const mount: Mount = { destination: containerPath, source: hostPath };
  if (type !== undefined && type !== '') mount.type = type;
  if (options !== undefined) mount.options = [...options];
  const given = options ?? [];
  if (!inUserNamespace || given.some((option) => option === 'idmap' || option === 'ridmap')) return mount;
  const bind = given.findLast((option) => option === 'bind' || option === 'rbind');
  if (bind !== undefined) mount.options = [...given, bind === 'bind' ? 'idmap' : 'ridmap'];
  else if (type === 'bind') mount.options = [...given, 'idmap'];
  return mount;
}

function depth({ destination }: Mount): number {
  return cleanAbsolute(destination).split('/').length;
}

function applyHook(spec: Spec, { hookName, path, args, env, timeout }: CdiHook): void {
  const hook: Hook = { path };
  if (args !== undefined) hook.args = [...args];
  if (env !== undefined) hook.env = [...env];
  // Zero is "no limit" in CDI's reference and not allowed in config.json.
  if (timeout !== undefined && timeout > 0) hook.timeout = timeout;
  const point = hookName as keyof Hooks;
  spec.hooks = { ...spec.hooks, [point]: [...(spec.hooks?.[point] ?? []), hook] };
}

/** 0 is the root group, which nobody means to give. */
function applyGroups(spec: Spec, groups: readonly number[]): void {
  const user = spec.process?.user;
  if (user === undefined || groups.length === 0) return;
  user.additionalGids = [...new Set([...(user.additionalGids ?? []), ...groups.filter((gid) => gid !== 0)])];
}
