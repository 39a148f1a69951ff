/** A launch plan for people (`bulkhead plan`) and for programs (`--json`). */
import {
  CLONE_NEWCGROUP,
  CLONE_NEWIPC,
  CLONE_NEWNET,
  CLONE_NEWNS,
  CLONE_NEWPID,
  CLONE_NEWTIME,
  CLONE_NEWUSER,
  CLONE_NEWUTS,
  MOUNT_ATTR__ATIME,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NODIRATIME,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_NOSYMFOLLOW,
  MOUNT_ATTR_RDONLY,
  MOUNT_ATTR_STRICTATIME,
} from '../base/constants.ts';
import { CAPABILITIES } from '../oci/capabilities.ts';
import { RLIMITS } from '../oci/rlimits.ts';
import type { LaunchPlan, Step } from './inputs.ts';

type Fields = Omit<Step, 'action' | '$unknowns'>;
export type Action = keyof Fields;
type Body<Name extends Action> = NonNullable<Fields[Name]>;

/** The one action of a step and its fields. */
export function actionOf(step: Step): { name: Action; body: Record<string, unknown> } | undefined {
  for (const name of Object.keys(step) as Action[]) {
    if (!Object.hasOwn(describe, name)) continue;
    const body = step[name];
    if (body !== undefined && body !== null) return { name, body: body as Record<string, unknown> };
  }
  return undefined;
}

/**
 * One line a step, numbered as the executor's failures number them (from 0), with a heading for each stage:
 *
 *   plan of web-1: 69 steps
 *
 *   outer stage, in the namespaces of the launcher
 *     0  open /b/rootfs with everything below → slot 1
 */
export function printPlan(plan: LaunchPlan): string {
  const steps = plan.steps ?? [];
  const lines = [`plan of ${plan.id ?? ''}: ${steps.length} steps`];
  const cloneAt = steps.findIndex((step) => step.clone !== undefined && step.clone !== null);
  const pivotAt = steps.findIndex((step) => step.pivotRoot !== undefined && step.pivotRoot !== null);
  const width = String(steps.length).length + 2;
  steps.forEach((step, index) => {
    const heading = headingAt(index, cloneAt, pivotAt);
    if (heading !== undefined) lines.push('', heading);
    lines.push(`${String(index).padStart(width)}  ${describeStep(step)}`);
  });
  return `${lines.join('\n')}\n`;
}

function headingAt(index: number, cloneAt: number, pivotAt: number): string | undefined {
  if (index === 0) {
    return cloneAt < 0 ? 'one process, without Clone' : 'outer stage, in the namespaces of the launcher';
  }
  if (cloneAt >= 0 && index === cloneAt + 1) return 'inner stage, in the namespaces of the container';
  return pivotAt >= 0 && index === pivotAt + 1 ? 'inner stage, inside the root of the container' : undefined;
}

/** One step in words. */
export function describeStep(step: Step): string {
  const action = actionOf(step);
  if (action === undefined) return 'nothing';
  // The table has a function for the body of each name; TypeScript cannot tie the two together.
  return (describe[action.name] as (body: unknown) => string)(action.body);
}

/** The plan as plain JSON data: bytes become {bytes, base64}. Field names are the protobuf's in camel case. */
export function planToJson(plan: LaunchPlan): unknown {
  return JSON.parse(JSON.stringify(plan, replaceBytes)) as unknown;
}

function replaceBytes(this: unknown, key: string, value: unknown): unknown {
  // A Buffer has turned itself into {type, data} before this is called; the holder still has the bytes.
  const original = (this as Record<string, unknown>)[key];
  if (!(original instanceof Uint8Array)) return value;
  return { bytes: original.length, base64: Buffer.from(original).toString('base64') };
}

const namespaceNames: readonly [number, string][] = [
  [CLONE_NEWUSER, 'user'],
  [CLONE_NEWPID, 'pid'],
  [CLONE_NEWNET, 'network'],
  [CLONE_NEWNS, 'mount'],
  [CLONE_NEWIPC, 'ipc'],
  [CLONE_NEWUTS, 'uts'],
  [CLONE_NEWCGROUP, 'cgroup'],
  [CLONE_NEWTIME, 'time'],
];
const attributeNames: readonly [number, string][] = [
  [MOUNT_ATTR_RDONLY, 'ro'],
  [MOUNT_ATTR_NOSUID, 'nosuid'],
  [MOUNT_ATTR_NODEV, 'nodev'],
  [MOUNT_ATTR_NOEXEC, 'noexec'],
  [MOUNT_ATTR_NODIRATIME, 'nodiratime'],
  [MOUNT_ATTR_NOSYMFOLLOW, 'nosymfollow'],
];
const propagationNames = ['unchanged', 'private', 'slave', 'shared', 'unbindable'];
const makeNames = ['', ', made as a directory', ', made as a file', ', made like its source'];
const rlimitNames = new Map([...RLIMITS].map(([name, number]) => [number, name]));
const deviceLetters = ['c', 'b', 'p'];

function flagNames(bits: number, table: readonly [number, string][]): string {
  return table
    .filter(([bit]) => (bits & bit) === bit)
    .map(([, name]) => name)
    .join(',');
}

function attributes(bits: number | null | undefined): string {
  const flags = bits ?? 0;
  const time = flags & MOUNT_ATTR__ATIME;
  const times =
    time === MOUNT_ATTR_NOATIME ? ['noatime'] : time === MOUNT_ATTR_STRICTATIME ? ['strictatime'] : [];
  const rest = flagNames(flags, attributeNames);
  return [...(rest === '' ? [] : [rest]), ...times].join(',');
}

function clearedAttributes(bits: number | null | undefined): string {
  const flags = bits ?? 0;
  const rest = flagNames(flags, attributeNames);
  return [...(rest === '' ? [] : [rest]), ...((flags & MOUNT_ATTR__ATIME) === 0 ? [] : ['atime mode'])].join(
    ',',
  );
}

function capabilityNames(mask: number | null | undefined): string {
  const bits = BigInt(mask ?? 0);
  const names = CAPABILITIES.filter((_, number) => (bits >> BigInt(number)) & 1n);
  if (names.length === CAPABILITIES.length) return 'all';
  return names.length === 0 ? 'none' : names.map((name) => name.slice('CAP_'.length).toLowerCase()).join(',');
}

const octal = (mode: number | null | undefined): string => `0${(mode ?? 0).toString(8)}`;
const quoted = (text: string | null | undefined): string => JSON.stringify(text ?? '');
const slotOf = ({ slot }: { slot?: number | null }): string => `slot ${slot ?? 0}`;
const size = (bytes: Uint8Array | null | undefined): string => `${bytes?.length ?? 0} bytes`;
const limit = (value: number | null | undefined): string =>
  value === -1 || (value ?? 0) >= 2 ** 63 ? 'unlimited' : String(value ?? 0);

function idMaps(uids: Body<'clone'>['uidMaps'], gids: Body<'clone'>['gidMaps']): string {
  const text = (maps: Body<'clone'>['uidMaps']): string =>
    (maps ?? []).map((map) => `${map.containerId ?? 0}:${map.hostId ?? 0}:${map.size ?? 0}`).join(' ');
  return (uids ?? []).length + (gids ?? []).length === 0 ? '' : `, uids ${text(uids)}, gids ${text(gids)}`;
}

/** File data that is text on one line is shown, the rest is counted. */
function shown(data: Uint8Array | null | undefined): string {
  const text = Buffer.from(data ?? new Uint8Array()).toString('latin1');
  return text.length <= 120 && /^[\x20-\x7e\n]*$/.test(text) ? quoted(text) : size(data);
}

function setattr(step: Body<'mountSetattr'>): string {
  const parts = [
    attributes(step.set) === ''
      ? ''
      : `set ${attributes(step.set)}${step.recursive === true ? ' recursively' : ''}`,
    clearedAttributes(step.clear) === ''
      ? ''
      : `clear ${clearedAttributes(step.clear)}${step.recursive === true ? ' recursively' : ''}`,
    (step.propagation ?? 0) === 0
      ? ''
      : `make ${propagationNames[step.propagation ?? 0]}${step.propagationRecursive === true ? ' recursively' : ''}`,
    idMaps(step.uidMaps, step.gidMaps).replace(/^, /, 'map '),
  ].filter((part) => part !== '');
  return `mount in ${slotOf(step)}: ${parts.length === 0 ? 'unchanged' : parts.join(', ')}`;
}

const describe: { [Name in Action]: (body: Body<Name>) => string } = {
  makeCgroup: ({ path }) => `make cgroup ${path ?? ''}`,
  writeFile: ({ path, data }) => `write ${shown(data)} to ${path ?? ''}`,
  attachDeviceProgram: ({ cgroup, instructions }) =>
    `attach device program (${size(instructions)}) to ${cgroup ?? ''}`,
  joinCgroup: ({ path }) => `join cgroup ${path ?? ''}`,
  joinNamespace: ({ path, pid, types }) =>
    `join namespaces ${flagNames(types ?? 0, namespaceNames)} of ${(pid ?? 0) === 0 ? path : `process ${pid}`}`,
  unshare: ({ flags }) => `unshare ${flagNames(flags ?? 0, namespaceNames)}`,
  openTree: (step) =>
    `open ${step.path ?? ''}${step.recursive === true ? ' with everything below' : ''}` +
    `${step.pathOnly === true ? ' as a path' : ''} → ${slotOf(step)}`,
  fsMount: (step) => {
    const options = [attributes(step.attrFlags), ...(step.options ?? [])].filter((option) => option !== '');
    const maps = idMaps(step.uidMaps, step.gidMaps);
    return `new ${step.fstype ?? ''} ${step.source ?? ''} (${options.join(',')})${maps} → ${slotOf(step)}`;
  },
  openFile: (step) => `open file ${step.path ?? ''} → ${slotOf(step)}`,
  clone: ({ namespaces, uidMaps, gidMaps }) =>
    `clone with new namespaces ${flagNames(namespaces ?? 0, namespaceNames) || 'none'}${idMaps(uidMaps, gidMaps)}`,
  mountSetattr: setattr,
  enterRoot: ({ path }) => `targets are beneath ${path ?? ''} from here on`,
  attach: (step) =>
    `attach ${slotOf(step)} at ${step.hostTarget === true ? 'host path ' : ''}${step.target ?? ''}` +
    `${makeNames[step.make ?? 0] ?? ''}${step.tmpcopyup === true ? ', filled with what it covers' : ''}`,
  setPropagation: ({ path, propagation, recursive }) =>
    `make ${path ?? ''} ${propagationNames[propagation ?? 0] ?? ''}${recursive === true ? ' recursively' : ''}`,
  mkdir: ({ target, mode, uid, gid }) =>
    `make directory ${target ?? ''} ${octal(mode)} ${uid ?? 0}:${gid ?? 0}`,
  mknod: (step) =>
    `device ${step.target ?? ''} ${deviceLetters[step.type ?? 0] ?? '?'} ${step.major ?? 0}:${step.minor ?? 0} ` +
    `${octal(step.mode)} ${step.uid ?? 0}:${step.gid ?? 0}` +
    ((step.bindSlot ?? 0) === 0 ? '' : `, bound from slot ${step.bindSlot}`),
  symlink: ({ target, contents }) => `symlink ${target ?? ''} → ${contents ?? ''}`,
  pivotRoot: ({ noPivot, rootPropagation }) =>
    `${noPivot === true ? 'move the root over / and chroot' : 'pivot_root'}` +
    ((rootPropagation ?? 0) === 0 ? '' : `, make it ${propagationNames[rootPropagation ?? 0] ?? ''}`),
  maskPath: ({ target }) => `mask ${target ?? ''}`,
  readonlyPath: ({ target }) => `read-only ${target ?? ''}`,
  remountRoot: ({ set }) => `root file system ${attributes(set)}`,
  hostname: ({ name }) => `hostname ${name ?? ''}`,
  domainname: ({ name }) => `domainname ${name ?? ''}`,
  sysctl: ({ key, value }) => `sysctl ${key ?? ''} = ${value ?? ''}`,
  loopbackUp: () => 'loopback device up',
  rlimit: ({ resource, soft, hard }) =>
    `${rlimitNames.get(resource ?? 0) ?? `limit ${resource ?? 0}`} ${limit(soft)} of ${limit(hard)}`,
  oomScoreAdj: ({ value, bestEffort }) =>
    `oom_score_adj ${value ?? 0}${bestEffort === true ? ', if it is allowed' : ''}`,
  umask: ({ mask }) => `umask ${octal(mask)}`,
  personality: ({ persona }) => `personality ${persona ?? 0}`,
  ioPriority: ({ ioprioClass, priority }) => `io priority class ${ioprioClass ?? 0} level ${priority ?? 0}`,
  scheduler: ({ policy, nice, priority }) =>
    `scheduler policy ${policy ?? 0} nice ${nice ?? 0} priority ${priority ?? 0}`,
  cpuAffinity: ({ mask }) =>
    `cpu affinity 0x${Buffer.from(mask ?? [])
      .reverse()
      .toString('hex')}`,
  sessionKeyring: ({ name }) => `session keyring ${name ?? ''}`,
  lsmExecLabel: ({ lsm, label }) => `${lsm ?? ''} label ${label ?? ''}`,
  terminal: ({ mountConsole, width, height }) =>
    `terminal ${width ?? 0}x${height ?? 0}${mountConsole === true ? ', also /dev/console' : ''}`,
  ownStdio: ({ uid, gid }) => `standard streams belong to ${uid ?? 0}:${gid ?? 0}`,
  findExecutable: ({ file, path, defaultHome }) =>
    `find ${quoted(file)} in ${path ?? ''}${defaultHome === true ? ', and HOME in passwd' : ''}`,
  gate: ({ point, fifoSlot }) =>
    `wait at gate ${point ?? ''}${(fifoSlot ?? 0) === 0 ? '' : ` for the fifo in slot ${fifoSlot}`}`,
  runHook: ({ path, args }) =>
    `run hook ${path ?? ''} ${(args ?? []).slice(1).map(quoted).join(' ')}`.trimEnd(),
  user: ({ uid, gid, additionalGids }) =>
    `user ${uid ?? 0}:${gid ?? 0}${(additionalGids ?? []).map((id) => `,${id}`).join('')}`,
  boundingSet: ({ mask }) => `bounding set ${capabilityNames(mask)}`,
  capabilities: ({ effective, permitted, inheritable, ambient }) =>
    `effective ${capabilityNames(effective)}; permitted ${capabilityNames(permitted)}; ` +
    `inheritable ${capabilityNames(inheritable)}; ambient ${capabilityNames(ambient)}`,
  noNewPrivs: () => 'no new privileges',
  seccomp: ({ program, flags }) => `seccomp program (${size(program)}, flags ${flags ?? 0})`,
  landlock: ({ bestEffort }) =>
    `Landlock: nothing outside the root${bestEffort === true ? ', if the kernel has it' : ''}`,
  listen: ({ path, index }) => `listen at ${path ?? ''} as descriptor ${3 + (index ?? 0)}`,
  socketPolicy: ({ cgroup, programs }) =>
    `socket policy of ${cgroup ?? ''}: ${(programs ?? []).length} programs`,
  chdir: ({ path, create }) => `directory ${path ?? ''}${create === true ? ', made if missing' : ''}`,
  parentDeathSignal: ({ signal }) => `signal ${signal ?? 0} when the parent ends`,
  exec: ({ file, args, preserveFds }) =>
    `exec ${[...((file ?? '') === '' ? [] : [file]), ...(args ?? [])].map(quoted).join(' ')}` +
    ((preserveFds ?? 0) === 0 ? '' : ` with ${preserveFds} more descriptors`),
};
