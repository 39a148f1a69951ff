/** The features document (runtime-spec features.md): what this version carries out, told to `features` and `-info`. */
import { CAPABILITIES } from '../oci/capabilities.ts';
import { OCI_VERSION } from '../oci/types.ts';
import type { Features, LinuxFeatures } from '../oci/features.ts';
import { knownMountOptions } from '../oci/mount_options.ts';

export type SeccompFeatures = Omit<NonNullable<LinuxFeatures['seccomp']>, 'enabled'>;

/** @param seccomp what the compiled-in libseccomp knows; undefined when there is none. */
export function features(
  seccomp: Required<SeccompFeatures> | undefined,
  annotations: Record<string, string> = {},
): Features {
  return {
    ociVersionMin: '1.0.0',
    ociVersionMax: OCI_VERSION,
    hooks: ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'],
    mountOptions: knownMountOptions(),
    linux: {
      namespaces: ['cgroup', 'ipc', 'mount', 'network', 'pid', 'time', 'user', 'uts'],
      capabilities: [...CAPABILITIES],
      cgroup: { v1: true, v2: true, systemd: false, systemdUser: false, rdma: true },
      seccomp: seccomp === undefined ? { enabled: false } : seccompFeatures(seccomp),
      apparmor: { enabled: true },
      selinux: { enabled: true },
      intelRdt: { enabled: false },
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: false },
    },
    annotations,
  };
}

function seccompFeatures(known: SeccompFeatures): LinuxFeatures['seccomp'] {
  const { actions, operators, archs, knownFlags, supportedFlags } = known;
  return { enabled: true, actions, operators, archs, knownFlags, supportedFlags };
}
