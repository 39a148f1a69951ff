/**
 * The launch plan of a further process in a running container: into its cgroups, into its namespaces by the pid of
 * its first process, Clone (a pid namespace is entered by a child), and then as a container's own process from the
 * point where that is inside its root.
 */
import type { NamespaceType } from '../oci/types.ts';
import { cgroupSteps } from './cgroup_join.ts';
import { PLAN_VERSION } from './compile.ts';
import { refuser, Slots } from './context.ts';
import { capabilities, environment, findExecutable, ownStdio, umask, user } from './identity.ts';
import type { ExecPlanInput, LaunchPlan, Step, Warn } from './inputs.ts';
import { affinity, earlyLimits, personality, rlimits, scheduling } from './limits.ts';
import { cloneFlags } from './namespaces.ts';
import { keyring, labels, noNewPrivileges, seccomp } from './security.ts';
import { startGate, terminal } from './terminal.ts';

/**
 * Compiles an exec. `warn` as for compileCreate.
 * @throws RuntimeError FailedPrecondition, for what this host cannot do
 */
export function compileExec(input: ExecPlanInput, warn: Warn = () => {}): LaunchPlan {
  const { id, execId, process, host, target, linux = {} } = input;
  const refuse = refuser('exec', `${id}/${execId}`);
  const inUserNamespace = target.namespaces.includes('user');
  const context = { process, host, warn, inUserNamespace };
  const slots = new Slots(refuse);
  const gate = input.gate === undefined ? undefined : startGate(input.gate, () => slots.next());
  const env = environment(process, input);
  const { bounding, others } = capabilities(context);
  const { sources: listener, filter } = seccomp({
    profile: linux.seccomp,
    program: input.seccomp,
    state: input.state,
    slots,
    refuse,
  });
  const filterEarly = process.noNewPrivileges !== true;
  const hostStdio = inUserNamespace && host.unprivileged !== true;
  const hidden = host.nsdelegate === true && target.namespaces.includes('cgroup');
  const maps = { uid: linux.uidMappings, gid: linux.gidMappings };

  const steps: Step[] = [
    // 1: outer stage
    ...affinity(process, 'initial'),
    ...cgroupSteps(input.cgroup.outer, inUserNamespace || hidden),
    ...affinity(process, 'final'),
    ...earlyLimits(context),
    ...(gate?.sources ?? []),
    ...listener,
    ...(hostStdio ? ownStdio(process, maps) : []),
    // 2: namespaces
    ...joinTarget(target),
    { clone: { namespaces: 0 } },
    // 3: inner stage, inside the container's root
    ...keyring(id, input.noNewKeyring),
    ...terminal(process, false),
    ...(hostStdio ? [] : ownStdio(process, undefined)),
    umask(process),
    { chdir: { path: process.cwd } },
    ...personality(linux.personality),
    ...scheduling(process),
    ...rlimits(context),
    ...labels(process, host, refuse),
    ...noNewPrivileges(process),
    ...(filterEarly ? filter : []),
    bounding,
    user(context),
    others,
    findExecutable(process, env),
    ...(gate === undefined ? [] : [gate.gate]),
    ...(filterEarly ? [] : filter),
    { exec: { args: process.args, env, preserveFds: input.preserveFds ?? 0 } },
  ];
  return { version: PLAN_VERSION, id: execId, steps };
}

/** All at once by pidfd (setns(2), Linux 5.8): either the process is in all of them or in none. */
function joinTarget({ pid, startTime, namespaces }: ExecPlanInput['target']): Step[] {
  const types = [...new Set<NamespaceType>(namespaces)].reduce((sum, type) => sum + cloneFlags[type], 0);
  if (types === 0) return [];
  return [{ joinNamespace: { pid, pidStartTime: startTime, types } }];
}
