/** Who the process is and what it starts as: user, capabilities, environment, directory, program. */
import { capabilityNumber } from '../oci/capabilities.ts';
import type { LinuxCapabilities, LinuxIDMapping, Process } from '../oci/types.ts';
import type { HostFacts, Step, Warn } from './inputs.ts';
import { hostId } from './namespaces.ts';

/** umask(2) of a process that does not ask for one. */
const DEFAULT_UMASK = 0o022;
/** Where a program is looked for when the environment has no PATH (as execvp(3) does, without the directory "."). */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

interface IdentityContext {
  process: Process;
  host: HostFacts;
  warn: Warn;
  inUserNamespace: boolean;
}

export function umask({ user }: Process): Step {
  return { umask: { mask: user.umask ?? DEFAULT_UMASK } };
}

export function user({ process, host }: IdentityContext): Step {
  const { uid, gid, additionalGids = [] } = process.user;
  return { user: { uid, gid, additionalGids, keepGroups: host.unprivileged === true } };
}

type SetName = keyof Required<LinuxCapabilities>;

/**
 * The five sets. What the kernel would refuse is left out with a warning: "runtimes SHOULD NOT fail if the container
 * configuration requests capabilities that cannot be granted" (config.md, "Linux Process").
 */
export function capabilities(context: IdentityContext): { bounding: Step; others: Step } {
  const { process, host, warn, inUserNamespace } = context;
  // A user namespace gives its first process everything; otherwise the launcher can only hand on what it has.
  const grantable = inUserNamespace ? undefined : host.capabilities;
  const wanted = process.capabilities ?? {};
  const mask = (set: SetName, within?: { mask: bigint; name: string }): bigint => {
    let bits = 0n;
    for (const name of wanted[set] ?? []) {
      const number = capabilityNumber(name.toUpperCase());
      if (number === undefined || number > host.capLastCap) {
        warn(`capability ${JSON.stringify(name)} is not known to this kernel`);
        continue;
      }
      const bit = 1n << BigInt(number);
      if (grantable !== undefined && (BigInt(grantable) & bit) === 0n) {
        warn(`capability ${name} cannot be granted: the runtime does not have it`);
      } else if (within !== undefined && (within.mask & bit) === 0n) {
        warn(`capability ${name} cannot be ${set}: it is not ${within.name}`);
      } else bits |= bit;
    }
    return bits;
  };
  const bounding = mask('bounding');
  const permitted = mask('permitted');
  const inheritable = mask('inheritable', { mask: bounding, name: 'in the bounding set' });
  const effective = mask('effective', { mask: permitted, name: 'permitted' });
  const ambient = mask('ambient', { mask: permitted & inheritable, name: 'permitted and inheritable' });
  return {
    bounding: { boundingSet: { mask: Number(bounding) } },
    others: {
      capabilities: {
        effective: Number(effective),
        permitted: Number(permitted),
        inheritable: Number(inheritable),
        ambient: Number(ambient),
      },
    },
  };
}

/** The environment: later entries replace earlier ones of the same name, as getenv(3) would not. */
export function environment(
  started: Process,
  extra: { home?: string | undefined; listenFds?: number | undefined },
): string[] {
  const byName = new Map<string, string>();
  for (const entry of started.env ?? []) byName.set(entry.slice(0, entry.indexOf('=')), entry);
  if (!byName.has('HOME') && extra.home !== undefined) byName.set('HOME', `HOME=${extra.home}`);
  if (extra.listenFds !== undefined && extra.listenFds > 0) {
    byName.set('LISTEN_FDS', `LISTEN_FDS=${extra.listenFds}`);
    byName.set('LISTEN_PID', 'LISTEN_PID=1');
  }
  return [...byName.values()];
}

/** Standard streams that are not a terminal go to the user, who may open /dev/stdout again. */
export function ownStdio(
  process: Process,
  maps: { uid?: readonly LinuxIDMapping[]; gid?: readonly LinuxIDMapping[] } | undefined,
): Step[] {
  if (process.terminal === true) return [];
  const { uid, gid } = process.user;
  if (maps === undefined) return uid === 0 ? [] : [{ ownStdio: { uid, gid } }];
  const hostUid = hostId(maps.uid, uid);
  const hostGid = hostId(maps.gid, gid);
  return hostUid === undefined || hostGid === undefined ? [] : [{ ownStdio: { uid: hostUid, gid: hostGid } }];
}

/** Found before the gate, so that a missing program is an error of create, not of start. */
export function findExecutable(process: Process, env: readonly string[]): Step {
  const path = env.find((entry) => entry.startsWith('PATH='))?.slice('PATH='.length);
  return {
    findExecutable: {
      file: process.args[0] ?? '',
      path: path ?? DEFAULT_PATH,
      cwd: process.cwd,
      // Images count on it, and only the executor sees their passwd file.
      defaultHome: !env.some((entry) => entry.startsWith('HOME=')),
    },
  };
}
