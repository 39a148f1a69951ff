/** Labels, keyring, no_new_privs and seccomp. */
import { stateAroundPid } from '../oci/state.ts';
import type { Process, Spec } from '../oci/types.ts';
import type { CreateContext } from './context.ts';
import type { HostFacts, SeccompProgram, Step } from './inputs.ts';

/** Labels take effect at execve(2). Asking for one that the host cannot enforce is an error, not a wish. */
export function labels(
  { apparmorProfile = '', selinuxLabel = '' }: Process,
  host: HostFacts,
  refuse: (object: string, reason: string, remedy?: string) => never,
): Step[] {
  if (selinuxLabel !== '' && !host.selinux) {
    refuse('process.selinuxLabel', 'SELinux is not enabled on this host', 'remove the label');
  }
  if (apparmorProfile !== '' && !host.apparmor) {
    refuse('process.apparmorProfile', 'AppArmor is not enabled on this host', 'remove the profile');
  }
  const steps: Step[] = [];
  if (selinuxLabel !== '') steps.push({ lsmExecLabel: { lsm: 'selinux', label: selinuxLabel } });
  if (apparmorProfile !== '') steps.push({ lsmExecLabel: { lsm: 'apparmor', label: apparmorProfile } });
  return steps;
}

/** A session keyring of its own; processes entered later join it by name (keyrings(7)). */
export function keyring(id: string, noNewKeyring: boolean | undefined): Step[] {
  return noNewKeyring === true ? [] : [{ sessionKeyring: { name: `_ses.${id}` } }];
}

export function noNewPrivileges({ noNewPrivileges: wanted }: Process): Step[] {
  return wanted === true ? [{ noNewPrivs: {} }] : [];
}

export interface Listener {
  slot: number;
  statePrefix: Uint8Array;
  stateSuffix: Uint8Array;
}

export function seccomp(program: SeccompProgram | undefined, listener?: Listener): Step[] {
  if (program === undefined) return [];
  const to = listener === undefined ? {} : listenerFields(listener);
  return [{ seccomp: { program: program.program, flags: program.flags, ...to } }];
}

function listenerFields({ slot, statePrefix, stateSuffix }: Listener) {
  return { listenerSlot: slot, statePrefix, stateSuffix };
}

/** Where notifications go (config-linux.md, "Seccomp", listenerPath): a socket of the host, found in the outer stage. */
export function seccompListener(context: CreateContext): { sources: Step[]; listener?: Listener } {
  const { listenerPath = '', listenerMetadata } = context.linux.seccomp ?? {};
  if (listenerPath === '' || context.input.seccomp === undefined) return { sources: [] };
  const slot = context.slots.next();
  return {
    sources: [{ openTree: { slot, path: listenerPath, pathOnly: true } }],
    listener: { slot, ...processState(context, listenerMetadata) },
  };
}

/** containerProcessState around the pid; the state inside has none (it is the same pid). */
function processState(
  { spec, input }: CreateContext,
  metadata: string | undefined,
): Pick<Listener, 'statePrefix' | 'stateSuffix'> {
  const state = {
    ociVersion: spec.ociVersion,
    id: input.id,
    status: 'creating',
    ...bundleOf(spec, input.bundle),
  };
  const head = JSON.stringify({ ociVersion: spec.ociVersion, fds: ['seccompFd'] });
  const tail = JSON.stringify({ ...(metadata === undefined ? {} : { metadata }), state });
  const utf8 = new TextEncoder();
  return {
    statePrefix: utf8.encode(`${head.slice(0, -1)},"pid":`),
    stateSuffix: utf8.encode(`,${tail.slice(1)}`),
  };
}

function bundleOf(spec: Spec, bundle: string): { bundle: string; annotations?: Record<string, string> } {
  return spec.annotations === undefined ? { bundle } : { bundle, annotations: spec.annotations };
}

/** The state that a hook of the container's own namespaces reads. */
export function hookState(
  { spec, input }: CreateContext,
  status: 'creating' | 'created',
): { statePrefix: Uint8Array; stateSuffix: Uint8Array } {
  const { prefix, suffix } = stateAroundPid({
    ociVersion: spec.ociVersion,
    id: input.id,
    status,
    ...bundleOf(spec, input.bundle),
  });
  return { statePrefix: prefix, stateSuffix: suffix };
}
