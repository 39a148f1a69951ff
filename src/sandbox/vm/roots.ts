/**
 * Root file systems that lie in an image, and so need nothing of the host's files: what a snapshotter hands over as one
 * mount of a file system in a file or block device, or a file where config.json's root.path has a directory. The guest
 * has it as a disk, or as persistent memory whose pages are those of the host's page cache: clones that map the same
 * file have them in common.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Spec } from '../../oci/types.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import type { Images } from './images.ts';
import { canDax, imageVolume, isImageType, type MountLike, type Volume } from './storage.ts';

export type RootDevice = 'block' | 'pmem';

/**
 * The image that a container's root is; undefined: it is a directory, or made of several mounts.
 * @param path root.path of config.json, absolute
 * @throws RuntimeError when the image cannot be given to a guest, or not as `device`
 */
export function rootVolume(
  id: string,
  { rootfsMounts, spec }: Pick<CreateInput, 'rootfsMounts' | 'spec'>,
  path: string,
  { image }: Pick<Images, 'image'>,
  device: RootDevice,
): Volume | undefined {
  const [mount, ...more] = rootfsMounts.length > 0 ? rootfsMounts : fileMount(id, spec, path, image);
  if (mount === undefined || more.length > 0 || !isImageType(mount.type)) return undefined;
  return imageVolume(id, 'rootfs', device === 'pmem' ? withDax(id, mount) : mount, image);
}

/** root.path may be an image, which says itself what file system it has. */
function fileMount(id: string, { root }: Spec, path: string, image: Images['image']): MountLike[] {
  const found = image(path);
  if (found === undefined || found.kind === 'dax') return [];
  if (found.fstype === undefined) {
    const reason = 'is neither a directory nor an image of a file system (ext4, EROFS, squashfs)';
    throw refused(id, path, reason);
  }
  return [{ type: found.fstype, source: path, options: root?.readonly === true ? ['ro'] : [] }];
}

function withDax(id: string, mount: MountLike): MountLike {
  const { type = '', source = '', options = [] } = mount;
  if (options.some((option) => option.startsWith('dax'))) return mount;
  if (!canDax(type))
    throw refused(id, source, `file system ${type} has no DAX`, 'set vm.root_device to "block"');
  return { ...mount, options: [...options, 'dax=always'] };
}

function refused(id: string, path: string, reason: string, remedy?: string): RuntimeError {
  const code = ErrorCode.FailedPrecondition;
  return new RuntimeError({ code, op: 'create', id, object: `rootfs: ${path}`, reason, remedy });
}

/** Annotations by which a container is one of several in a pod. */
const POD_ANNOTATIONS = ['io.kubernetes.cri.container-type', 'io.kubernetes.cri.sandbox-id'];

/** Nobody will join it: it is no pod of Kubernetes, whose containers have files of the host. */
export function isAlone({ id, group }: ContainerRecord, { annotations = {} }: Spec): boolean {
  return (group ?? '') === id && !POD_ANNOTATIONS.some((name) => name in annotations);
}

/** A container that needs files of the host, in a pod whose first one did not. */
export function noShare(id: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: 'virtual machine',
    reason: 'was made for images only, and has no directory for files of the host',
    remedy: "give the pod's first container a file of the host as well, or a machine of its own to this one",
  });
}
