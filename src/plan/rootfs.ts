/**
 * The root file system: made as detached mounts and attached in the container's mount namespace only, so that the
 * host never sees it and nothing has to be unmounted. (Hooks of the runtime's namespaces therefore do not see it at
 * the bundle's rootfs either; they reach it through /proc/PID/root of the container.)
 */
import { MOUNT_ATTR_RDONLY } from '../base/constants.ts';
import { parseMountOptions, parsePropagation } from '../oci/mount_options.ts';
import { cleanAbsolute } from '../oci/paths.ts';
import { show } from '../oci/validate/shape.ts';
import { bulkhead } from '../gen/bulkhead.js';
import type { Contribution, CreateContext } from './context.ts';
import type { RootfsMount, Step } from './inputs.ts';
import { hasSuperblockReadOnly } from './mounts.ts';
import { idMaps } from './namespaces.ts';
import { propagationValue } from './propagation.ts';

const { Propagation, TargetKind } = bulkhead.plan.v1;

export function rootfs(context: CreateContext): Contribution {
  const { input } = context;
  const { path } = input.rootfs;
  const mounts: readonly RootfsMount[] =
    input.rootfs.mounts.length > 0
      ? input.rootfs.mounts
      : [{ type: 'bind', source: path, options: ['rbind'] }];
  const sources: Step[] = [];
  const inner: Step[] = [
    // What the host mounts meanwhile stays out, and pivot_root(2) wants a parent that is not shared.
    { setPropagation: { path: '/', propagation: Propagation.PROPAGATION_PRIVATE, recursive: true } },
  ];
  for (const mount of mounts) {
    const slot = context.slots.next();
    const target = mount.target === undefined ? path : `${path}${cleanAbsolute(mount.target)}`;
    const make = rootMount(context, mount, slot, target);
    // A user namespace has no power over most superblocks, so its launcher makes them. Otherwise the container's
    // own mount namespace does: there mount(2) can step in on kernels that refuse long options (before 6.5).
    const early = context.inUserNamespace || isBind(mount);
    (early ? sources : inner).push(...make);
    inner.push({
      attach: { slot, target, make: TargetKind.TARGET_KIND_EXISTING, hostTarget: true },
    });
  }
  inner.push({ enterRoot: { path } });
  return { sources, inner };
}

function isBind({ type, options }: RootfsMount): boolean {
  return type === 'bind' || options.some((option) => /^r?bind$/.test(option));
}

function rootMount(context: CreateContext, mount: RootfsMount, slot: number, target: string): Step[] {
  const { type, source } = mount;
  const options = parseMountOptions(mount.options);
  const unsupported = options.data.find((option) => /^loop(=|$)|^X-|^x-|^[ug]idmap=/.test(option));
  if (unsupported !== undefined) {
    context.refuse(
      `rootfs mount ${show(type)} ${show(source)}`,
      `option ${JSON.stringify(unsupported)} is not supported`,
    );
  }
  const { uidMappings, gidMappings } = context.linux;
  const idmap =
    context.input.mappedRootfs === true
      ? { uidMaps: idMaps(uidMappings), gidMaps: idMaps(gidMappings) }
      : undefined;
  if (!isBind(mount)) {
    const readOnly = (options.attributes.set & MOUNT_ATTR_RDONLY) !== 0;
    return [
      {
        fsMount: {
          slot,
          fstype: type,
          source,
          options: [...options.superblock, ...options.data],
          attrFlags: options.attributes.set,
          superblockRo: readOnly && hasSuperblockReadOnly(type),
          fallbackTarget: context.inUserNamespace ? '' : target,
          ...(type === 'overlay' ? idmap : {}),
        },
      },
      ...(type === 'overlay' || idmap === undefined ? [] : [{ mountSetattr: { slot, ...idmap } }]),
    ];
  }
  return [
    { openTree: { slot, path: source, recursive: options.recursiveBind } },
    {
      mountSetattr: {
        slot,
        ...idmap,
        set: options.attributes.set,
        clear: options.attributes.clear,
        propagation: propagationValue(rootPropagation(context)),
        propagationRecursive: true,
      },
    },
  ];
}

/** pivot_root(2) refuses a shared root, so "shared" comes after it; a slave keeps getting what the host mounts. */
function rootPropagation({ linux }: CreateContext): 'private' | 'slave' {
  const wanted = parsePropagation(linux.rootfsPropagation ?? '');
  return wanted === undefined || wanted.kind === 'slave' ? 'slave' : 'private';
}

/** Into the new root, then what applies to it as a whole. */
export function enterRoot(context: CreateContext): Step[] {
  const { input, linux, refuse } = context;
  const wanted = parsePropagation(linux.rootfsPropagation ?? '');
  if (input.noPivot === true && wanted?.kind === 'private') {
    refuse('config.json: linux.rootfsPropagation', 'private is not safe without pivot_root');
  }
  const later = wanted?.kind === 'shared' || wanted?.kind === 'unbindable' ? wanted : undefined;
  return [
    {
      pivotRoot: {
        noPivot: input.noPivot === true,
        rootPropagation: propagationValue(later?.kind),
        propagationRecursive: later?.recursive === true,
      },
    },
  ];
}

export function readonlyRoot({ spec }: CreateContext): Step[] {
  return spec.root?.readonly === true ? [{ remountRoot: { set: MOUNT_ATTR_RDONLY } }] : [];
}

export function hiddenPaths({ linux }: CreateContext): Step[] {
  return [
    ...(linux.readonlyPaths ?? []).map((target): Step => ({ readonlyPath: { target } })),
    ...[...new Set(linux.maskedPaths ?? [])].map((target): Step => ({ maskPath: { target } })),
  ];
}
