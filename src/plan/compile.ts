/**
 * The launch plan of a container: config.json and facts about the host in, an ordered list of steps out. Pure: the
 * same input gives the same plan. Reads from top to bottom as what will happen.
 *
 *   launcher            outer stage (host's namespaces)         inner stage (container's namespaces)
 *      |── launch ────────► 1 cgroups, limits, sources
 *      |                    2 join and make namespaces ──Clone──► 3 root file system, mounts, devices
 *      |◄─ Cloned(pid) ──── exit                                  (gate createRuntime, hooks createContainer)
 *      |                                                          4 pivot_root, terminal, what the root hides
 *      |                                                          5 who the process is
 *      |◄─ Paused(start) ──────────────────────────────────────── 6 gate
 *      |── Continue ────────────────────────────────────────────► 7 hooks startContainer, seccomp, exec
 */
import type { NamespaceType } from '../oci/types.ts';
import { cgroupSteps } from './cgroup_join.ts';
import { createContext } from './context.ts';
import { devices } from './devices.ts';
import { createContainerHooks, createRuntimeGate, startContainerHooks } from './hooks.ts';
import { capabilities, environment, findExecutable, ownStdio, umask, user } from './identity.ts';
import type { LaunchPlan, PlanInput, Step, Warn } from './inputs.ts';
import { earlyLimits, personality, rlimits, scheduling } from './limits.ts';
import { mounts } from './mounts.ts';
import {
  checkNamespaces,
  clone,
  joinNamespaces,
  loopback,
  names,
  sysctls,
  timeNamespace,
} from './namespaces.ts';
import { enterRoot, hiddenPaths, readonlyRoot, rootfs } from './rootfs.ts';
import { keyring, labels, noNewPrivileges, seccomp, stateOf } from './security.ts';
import { startGate, terminal } from './terminal.ts';
import { refuseUnsupported } from './unsupported.ts';

/** Version of launch_plan.proto that the executor takes. */
export const PLAN_VERSION = 1;

/**
 * Compiles a create. `warn` gets what was asked for and cannot be had without being an error.
 * @throws RuntimeError FailedPrecondition, for what this version or this host cannot do
 */
export function compileCreate(input: PlanInput, warn: Warn = () => {}): LaunchPlan {
  const context = createContext(input, warn);
  const { process, linux } = context;
  checkNamespaces(context);
  refuseUnsupported(context);

  const gate = startGate(input.gate, () => context.slots.next());
  const root = rootfs(context);
  const mounted = mounts(context);
  const nodes = devices(context);
  const { sources: listener, filter } = seccomp({
    profile: linux.seccomp,
    program: input.seccomp,
    state: stateOf(context, 'creating'),
    slots: context.slots,
    refuse: context.refuse,
  });
  const { bounding, others } = capabilities(context);
  const env = environment(process, input);
  const label = labels(process, context.host, (field, ...rest) =>
    context.refuse(`config.json: ${field}`, ...rest),
  );
  const sources = [...root.sources, ...mounted.sources, ...nodes.sources, ...listener];
  const unprivileged = context.host.unprivileged === true;
  const hostStdio = context.inUserNamespace && !unprivileged;
  const joins = (wanted: NamespaceType): boolean =>
    (linux.namespaces ?? []).some(({ type, path }) => type === wanted && path !== undefined && path !== '');
  const moveBefore = joins('user') || (context.host.nsdelegate === true && joins('cgroup'));
  const maps = { uid: linux.uidMappings, gid: linux.gidMappings };
  // Without no_new_privs a filter needs CAP_SYS_ADMIN (seccomp(2)) and has to come before that is dropped.
  const filterEarly = process.noNewPrivileges !== true;

  const steps: Step[] = [
    // 1: outer stage, with the launcher's rights and by the host's names
    ...cgroupSteps(input.cgroup.outer, moveBefore),
    ...earlyLimits(context),
    ...gate.sources,
    ...(unprivileged ? [] : sources),
    ...(hostStdio ? ownStdio(process, maps) : []),
    // 2: namespaces
    ...joinNamespaces(context),
    ...timeNamespace(context),
    clone(context),
    // 3: inner stage, the host's files still in sight
    ...(unprivileged ? sources : []),
    ...keyring(input.id, input.noNewKeyring),
    ...loopback(context),
    ...root.inner,
    ...mounted.inner,
    ...nodes.inner,
    ...createRuntimeGate(context, input.waitsForRoot),
    ...createContainerHooks(context),
    // 4: inside the root
    ...enterRoot(context),
    ...terminal(process, true),
    ...mounted.late,
    ...names(context),
    ...sysctls(context),
    ...hiddenPaths(context),
    umask(process),
    { chdir: { path: process.cwd, create: true } },
    ...readonlyRoot(context),
    // 5: the process
    ...(hostStdio ? [] : ownStdio(process, undefined)),
    ...personality(linux.personality),
    ...scheduling(process),
    ...rlimits(context),
    ...label,
    ...noNewPrivileges(process),
    ...(filterEarly ? filter : []),
    bounding,
    user(context),
    others,
    findExecutable(process, env),
    // 6: created
    gate.gate,
    // 7: started
    ...startContainerHooks(context, env),
    ...(filterEarly ? [] : filter),
    { exec: { args: process.args, env, preserveFds: input.preserveFds ?? 0 } },
  ];
  return { version: PLAN_VERSION, id: input.id, steps };
}
