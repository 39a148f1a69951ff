/**
 * The directory that a pod's guest sees of the host, by virtio-fs. It exists in the mount namespace of its daemon
 * (virtiofsd) only: a small tmpfs, on which every container's root file system and volumes are attached when it comes,
 * and detached when it goes. So the guest can reach what the pod was given and nothing else, "read-only" is the host's
 * to enforce, and when the daemon ends nothing is left to unmount.
 *
 *   daemon's plan:  own mount namespace ── tmpfs ── virtiofsd, which makes a further namespace whose root is that tmpfs
 *   container:      sources opened by the host's names, root file system made in a namespace of the moment ── daemon's
 *                   namespace joined, in which nothing of the host is any more ── attached
 */
import { CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUTS, MOUNT_ATTR_RDONLY } from '../../base/constants.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import type { Spec } from '../../oci/types.ts';
import { createContext } from '../../plan/context.ts';
import type { HostFacts, LaunchPlan, Step } from '../../plan/inputs.ts';
import { rootfs } from '../../plan/rootfs.ts';
import type { RootfsMount } from '../backend.ts';
import { shareDirectory } from './layout.ts';
import type { Share } from './spec.ts';

const { Propagation, TargetKind } = bulkhead.plan.v1;

const RLIMIT_NOFILE = 7;
const PLAN_VERSION = 1;

export interface ShareDaemonInput {
  /** virtiofsd. */
  program: string;
  socket: string;
  /** Mount point for the tmpfs. */
  share: string;
  /** Make and join the pod's cgroups. */
  cgroupSteps: readonly Step[];
  /** How many files it may hold open: one for every file that the guest knows. */
  openFiles: number;
}

/** The daemon's socket listens before its first instruction, so that nobody has to wait for it. */
export function shareDaemonPlan(input: ShareDaemonInput): LaunchPlan {
  const { program, socket, share, cgroupSteps, openFiles } = input;
  const tmpfs = 1;
  return {
    version: PLAN_VERSION,
    id: 'vm/fs',
    steps: [
      { listen: { path: socket, index: 0, blocking: true } },
      ...cgroupSteps,
      { clone: { namespaces: CLONE_NEWNS + CLONE_NEWIPC + CLONE_NEWUTS } },
      { setPropagation: { path: '/', propagation: Propagation.PROPAGATION_SLAVE, recursive: true } },
      {
        fsMount: {
          slot: tmpfs,
          fstype: 'tmpfs',
          source: 'tmpfs',
          options: ['mode=755', 'size=4m'],
        },
      },
      { attach: { slot: tmpfs, target: share, make: TargetKind.TARGET_KIND_EXISTING, hostTarget: true } },
      { rlimit: { resource: RLIMIT_NOFILE, soft: openFiles, hard: openFiles } },
      { umask: { mask: 0 } },
      { noNewPrivs: {} },
      {
        exec: {
          file: program,
          args: [
            program,
            '--fd=3',
            '--rlimit-nofile=0',
            ...options(`source=${share}`, 'cache=auto', 'sandbox=namespace', 'announce_submounts', 'xattr'),
          ],
          env: [],
          preserveFds: 1,
        },
      },
    ],
  };
}

/** Both virtiofsd, the one in C and the one in Rust, take these. */
function options(...names: string[]): string[] {
  return names.flatMap((name) => ['-o', name]);
}

export interface ContainerShareInput {
  id: string;
  bundle: string;
  spec: Spec;
  serial: number;
  /** Of the daemon, in whose mount namespace all this is attached. */
  daemonPid: number;
  share: string;
  /** Directory of the root file system, for a bundle without `rootfsMounts`; undefined: it is no part of the share. */
  rootfs: string | undefined;
  rootfsMounts: readonly RootfsMount[];
  shares: readonly Share[];
  host: HostFacts;
}

/**
 * Attaches what a container sees: its root file system at cN/rootfs of the share, its volumes at cN/NAME. For when the
 * guest has mounted the share: only then has the daemon shut itself in.
 */
export function containerSharePlan(input: ContainerShareInput): LaunchPlan {
  const { id, serial, daemonPid, share, shares } = input;
  const directory = `/${shareDirectory(serial)}`;
  const root = rootContribution(input, share, directory);
  const attached = shares.map((each, index) => shareSteps(each, directory, root.slots + index));
  return {
    version: PLAN_VERSION,
    id,
    steps: [
      ...attached.flatMap(({ sources }) => sources),
      ...root.sources,
      { joinNamespace: { pid: daemonPid, types: CLONE_NEWNS } },
      { enterRoot: { path: '/' } },
      { mkdir: { target: directory } },
      ...root.inner,
      ...attached.flatMap(({ inner }) => inner),
      { exit: {} },
    ],
  };
}

/** Takes away what a container saw. @param input.paths below the share */
export function containerUnsharePlan(input: {
  id: string;
  daemonPid: number;
  paths: readonly string[];
}): LaunchPlan {
  const { id, daemonPid, paths } = input;
  return {
    version: PLAN_VERSION,
    id,
    steps: [
      { joinNamespace: { pid: daemonPid, types: CLONE_NEWNS } },
      ...paths.map((path): Step => ({ unmount: { path: `/${path}` } })),
      { exit: {} },
    ],
  };
}

/**
 * The root file system as every wall makes it, in a mount namespace that only this helper is in, at the place where the
 * daemon had its tmpfs; then taken along as a whole. (mount(2), which old kernels need for long options, cannot make a
 * mount that is attached nowhere.) `slots`: the first that is free.
 */
function rootContribution(
  input: ContainerShareInput,
  path: string,
  directory: string,
): { sources: Step[]; inner: Step[]; slots: number } {
  const { id, bundle, spec, host } = input;
  const volumes = 1 + input.shares.length;
  if (input.rootfs === undefined) return { sources: [], inner: [], slots: 1 };
  const own: RootfsMount = { type: 'bind', source: input.rootfs, options: ['rbind'] };
  const context = createContext(
    {
      id,
      bundle,
      // Ids are mapped in the guest, if at all.
      spec: { ...spec, linux: { ...spec.linux, namespaces: [], rootfsPropagation: '' } },
      rootfs: { path, mounts: input.rootfsMounts.length > 0 ? input.rootfsMounts : [own] },
      cgroup: { outer: [], view: { mode: 'v2', hierarchies: [] } },
      host,
      gate: { kind: 'sync' },
    },
    () => {},
  );
  for (let slot = 1; slot < volumes; slot++) context.slots.next();
  const { sources, inner } = rootfs(context);
  const slot = context.slots.next();
  return {
    sources: [
      ...sources,
      { unshare: { flags: CLONE_NEWNS } },
      ...inner.filter(({ enterRoot }) => !enterRoot),
      { openTree: { slot, path, recursive: true } },
    ],
    inner: [{ attach: { slot, target: `${directory}/rootfs`, make: TargetKind.TARGET_KIND_DIRECTORY } }],
    slots: 1,
  };
}

function shareSteps(share: Share, directory: string, slot: number): { sources: Step[]; inner: Step[] } {
  const { source, recursive, readOnly, readOnlyBelow, follows, name } = share;
  const set = readOnly || readOnlyBelow ? MOUNT_ATTR_RDONLY : 0;
  return {
    sources: [
      { openTree: { slot, path: source, recursive } },
      {
        mountSetattr: {
          slot,
          set,
          recursive: readOnlyBelow,
          // virtio-fs shows the guest whatever is mounted here, also later; nothing goes the other way.
          propagation: follows ? Propagation.PROPAGATION_SLAVE : Propagation.PROPAGATION_PRIVATE,
          propagationRecursive: true,
        },
      },
    ],
    inner: [
      {
        attach: {
          slot,
          target: `${directory}/${name}`,
          make: TargetKind.TARGET_KIND_LIKE_SOURCE,
        },
      },
    ],
  };
}
