/** Device nodes and the links of /dev (config-linux.md, "Default Devices" and "/dev symbolic links"). */
import { bulkhead } from '../gen/bulkhead.js';
import { cleanAbsolute } from '../oci/paths.ts';
import type { LinuxDevice } from '../oci/types.ts';
import { isBind } from '../oci/validate/checks_mounts.ts';
import type { Contribution, CreateContext } from './context.ts';
import type { Step } from './inputs.ts';

const { NodeType } = bulkhead.plan.v1;

const character = (path: string, major: number, minor: number): LinuxDevice => ({
  path,
  type: 'c',
  major,
  minor,
  fileMode: 0o666,
});

const defaultDevices: readonly LinuxDevice[] = [
  character('/dev/null', 1, 3),
  character('/dev/random', 1, 8),
  character('/dev/full', 1, 7),
  character('/dev/tty', 5, 0),
  character('/dev/zero', 1, 5),
  character('/dev/urandom', 1, 9),
];

const nodeTypes: Readonly<Record<string, bulkhead.plan.v1.NodeType>> = {
  c: NodeType.NODE_TYPE_CHAR,
  u: NodeType.NODE_TYPE_CHAR,
  b: NodeType.NODE_TYPE_BLOCK,
  p: NodeType.NODE_TYPE_FIFO,
};

export function devices(context: CreateContext): Contribution {
  const contribution: Contribution = { sources: [], inner: [] };
  // A /dev that was bound from elsewhere is the user's own affair, as for runc.
  if (
    (context.spec.mounts ?? []).some((mount) => isBind(mount) && cleanAbsolute(mount.destination) === '/dev')
  ) {
    return contribution;
  }
  const given = context.linux.devices ?? [];
  const taken = new Set(given.map(({ path }) => cleanAbsolute(path)));
  for (const device of [...defaultDevices.filter(({ path }) => !taken.has(path)), ...given]) {
    const path = cleanAbsolute(device.path);
    if (path !== '/dev/ptmx') addNode(context, device, path, contribution);
  }
  contribution.inner.push(...links(context));
  return contribution;
}

function addNode(
  context: CreateContext,
  device: LinuxDevice,
  path: string,
  contribution: Contribution,
): void {
  // A user namespace cannot make device nodes (mknod(2) needs CAP_MKNOD in the initial one): the host's is bound.
  const bound = device.type !== 'p' && (context.inUserNamespace || context.host.inUserNamespace === true);
  const slot = bound ? context.slots.next() : 0;
  if (bound) contribution.sources.push({ openTree: { slot, path } });
  contribution.inner.push({
    mknod: {
      target: path,
      type: nodeTypes[device.type] ?? NodeType.NODE_TYPE_CHAR,
      major: device.major ?? 0,
      minor: device.minor ?? 0,
      mode: (device.fileMode ?? 0o666) & 0o7777,
      uid: device.uid ?? 0,
      gid: device.gid ?? 0,
      bindSlot: slot,
    },
  });
}

function links({ host }: CreateContext): Step[] {
  const table: [string, string][] = [
    ['/dev/ptmx', 'pts/ptmx'],
    ['/dev/fd', '/proc/self/fd'],
    ['/dev/stdin', '/proc/self/fd/0'],
    ['/dev/stdout', '/proc/self/fd/1'],
    ['/dev/stderr', '/proc/self/fd/2'],
  ];
  if (host.kcore === true) table.push(['/dev/core', '/proc/kcore']);
  return table.map(([target, contents]) => ({ symlink: { target, contents, optional: true } }));
}
