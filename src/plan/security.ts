/** Labels, keyring, no_new_privs and seccomp. */
import { stateAroundPid, type State } from '../oci/state.ts';
import { OCI_VERSION, type LinuxSeccomp, type Process } from '../oci/types.ts';
import type { CreateContext, Slots } from './context.ts';
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

interface Listener {
  listenerSlot: number;
  statePrefix: Uint8Array;
  stateSuffix: Uint8Array;
}

interface SeccompContext {
  profile: LinuxSeccomp | undefined;
  program: SeccompProgram | undefined;
  /** The container's, without a pid. Undefined: not known. */
  state: Omit<State, 'pid'> | undefined;
  slots: Slots;
  refuse: (object: string, reason: string, remedy?: string) => never;
}

/**
 * The filter, and the socket of the host where notifications go (config-linux.md, "Seccomp", listenerPath), which is
 * found in the outer stage. A profile that nobody compiled is an error: running without it would be a hole.
 */
export function seccomp({ profile, program, state, slots, refuse }: SeccompContext): {
  sources: Step[];
  filter: Step[];
} {
  const wanted = profile !== undefined && (profile.defaultAction ?? '') !== '';
  if (program === undefined) {
    if (wanted) refuse('linux.seccomp', 'the profile has not been compiled');
    return { sources: [], filter: [] };
  }
  const listenerPath = profile?.listenerPath ?? '';
  if (listenerPath === '') return { sources: [], filter: [{ seccomp: { ...program } }] };
  if (state === undefined) return refuse('linux.seccomp.listenerPath', 'is not supported here');
  const listenerSlot = slots.next();
  const listener: Listener = { listenerSlot, ...processState(state, profile?.listenerMetadata) };
  return {
    sources: [{ openTree: { slot: listenerSlot, path: listenerPath, pathOnly: true } }],
    filter: [{ seccomp: { ...program, ...listener } }],
  };
}

/** containerProcessState around the pid; the state inside has none (it is the same pid). */
function processState(
  state: Omit<State, 'pid'>,
  metadata: string | undefined,
): { statePrefix: Uint8Array; stateSuffix: Uint8Array } {
  const head = JSON.stringify({ ociVersion: state.ociVersion, fds: ['seccompFd'] });
  const tail = JSON.stringify({ ...(metadata === undefined ? {} : { metadata }), state });
  const utf8 = new TextEncoder();
  return {
    statePrefix: utf8.encode(`${head.slice(0, -1)},"pid":`),
    stateSuffix: utf8.encode(`,${tail.slice(1)}`),
  };
}

/** State of the container that is being made, as hooks and listeners read it. */
export function stateOf({ spec, input }: CreateContext, status: 'creating' | 'created'): Omit<State, 'pid'> {
  const { annotations } = spec;
  const state = { ociVersion: OCI_VERSION, id: input.id, status, bundle: input.bundle };
  return annotations === undefined ? state : { ...state, annotations };
}

/** The state that a hook of the container's own namespaces reads. */
export function hookState(
  context: CreateContext,
  status: 'creating' | 'created',
): { statePrefix: Uint8Array; stateSuffix: Uint8Array } {
  const { prefix, suffix } = stateAroundPid(stateOf(context, status));
  return { statePrefix: prefix, stateSuffix: suffix };
}
