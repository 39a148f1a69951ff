/**
 * A mount of type "cgroup".
 *
 * v1 and hybrid: a tmpfs with one directory per hierarchy, the container's own cgroup bound there, and links for the
 * single names of joint hierarchies (cpu → cpu,cpuacct). The directories exist: the steps of src/cgroups come first.
 *
 * v2: a fresh cgroup2 mount, whose root is what the container's cgroup namespace shows. Where the kernel does not
 * allow that (a user namespace without a cgroup namespace of its own) the container's cgroup is bound instead, so
 * that the host's tree is never writable from there (CVE-2023-25809).
 */
import {
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
} from '../base/constants.ts';
import { bulkhead } from '../gen/bulkhead.js';
import type { MountOptions } from '../oci/mount_options.ts';
import { cleanAbsolute } from '../oci/paths.ts';
import type { Mount } from '../oci/types.ts';
import { show } from '../oci/validate/shape.ts';
import type { CreateContext } from './context.ts';
import type { Step } from './inputs.ts';
import type { MountContribution } from './mounts.ts';
import { propagationChanges } from './mounts.ts';

const { TargetKind } = bulkhead.plan.v1;
const hardened = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

export function cgroupMount(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  contribution: MountContribution,
): void {
  if (context.input.cgroup.view.mode === 'v2') unifiedMount(context, mount, options, contribution);
  else hierarchyMounts(context, mount, options, contribution);
}

function unifiedMount(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  contribution: MountContribution,
): void {
  const slot = context.slots.next();
  const { unified } = context.input.cgroup.view;
  const attributes = options.attributes.set;
  const mountable = !context.inUserNamespace || context.namespaces.cgroup.kind === 'new';
  if (mountable) {
    contribution.inner.push({
      fsMount: { slot, fstype: 'cgroup2', source: 'cgroup', options: options.data, attrFlags: attributes },
    });
  } else {
    if (unified === undefined) {
      context.refuse(
        `mount ${show(mount.destination)}`,
        'the container has no cgroup that could be shown there',
      );
    }
    contribution.sources.push(...bindCgroup(context, unified.path, slot, attributes));
  }
  contribution.inner.push({
    attach: { slot, target: mount.destination, make: TargetKind.TARGET_KIND_DIRECTORY },
  });
}

function hierarchyMounts(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  contribution: MountContribution,
): void {
  const { view } = context.input.cgroup;
  const top = cleanAbsolute(mount.destination);
  const readOnly = options.attributes.set & MOUNT_ATTR_RDONLY;
  const tmpfs = context.slots.next();
  contribution.inner.push(
    {
      fsMount: { slot: tmpfs, fstype: 'tmpfs', source: 'tmpfs', options: ['mode=755'], attrFlags: hardened },
    },
    { attach: { slot: tmpfs, target: top, make: TargetKind.TARGET_KIND_DIRECTORY } },
  );
  const shown = [
    ...view.hierarchies.map(({ names, mountPoint, path }) => ({ names, name: baseName(mountPoint), path })),
    ...(view.unified === undefined
      ? []
      : [{ names: [], name: baseName(view.unified.mountPoint), path: view.unified.path }]),
  ];
  for (const { names, name, path } of shown) {
    const slot = context.slots.next();
    contribution.sources.push(...bindCgroup(context, path, slot, hardened | options.attributes.set));
    contribution.inner.push({
      attach: { slot, target: `${top}/${name}`, make: TargetKind.TARGET_KIND_DIRECTORY },
    });
    if (names.length < 2) continue;
    for (const single of names) {
      if (single === name) continue;
      contribution.inner.push({ symlink: { target: `${top}/${single}`, contents: name, optional: true } });
    }
  }
  if (readOnly !== 0) contribution.inner.push({ mountSetattr: { slot: tmpfs, set: MOUNT_ATTR_RDONLY } });
}

function bindCgroup(context: CreateContext, path: string, slot: number, set: number): Step[] {
  const [cut] = propagationChanges(context, [{ kind: 'private', recursive: false }], false, slot);
  return [{ openTree: { slot, path } }, { mountSetattr: { slot, set, ...cut } }];
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
