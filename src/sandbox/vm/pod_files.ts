/**
 * The files of the host that a pod's containers see in its share. A volume that several containers mount is attached
 * once: the guest has one inode of each of its files then, so that fifos, sockets and locks in it connect them, and what
 * one has written the other reads at once. It stays until the last of them has gone.
 */
import { readFileSync, realpathSync, statSync } from 'node:fs';
import { isBelow } from '../../oci/paths.ts';
import type { Spec } from '../../oci/types.ts';
import type { HostFacts } from '../../plan/inputs.ts';
import type { RootfsMount } from '../backend.ts';
import type { Executor } from '../executor.ts';
import { nameMount } from '../host_backend.ts';
import { shareDirectory, type SandboxPaths } from './layout.ts';
import type { PodAgent } from './pod_agent.ts';
import { runHelper } from './processes.ts';
import type { SandboxContainer, SandboxRecord } from './record.ts';
import { containerSharePlan, containerUnsharePlan } from './share.ts';
import type { Share } from './spec.ts';

/** The pod, as far as its files need it. */
export interface PodOfFiles {
  readonly record: SandboxRecord;
  readonly paths: SandboxPaths;
  readonly executor: Executor;
  readonly agent: Pick<PodAgent, 'places' | 'container'>;
  /** Of the share's daemon. */
  readonly sharePid: number;
  readonly hasShare: boolean;
  save(): void;
}

/** What a container is to see. */
export interface ContainerFiles {
  bundle: string;
  spec: Spec;
  /** Directory of its root file system, for a bundle without `rootfsMounts`; undefined: it is no part of the share. */
  rootfs: string | undefined;
  rootfsMounts: readonly RootfsMount[];
  shares: readonly Share[];
  host: HostFacts;
}

export class PodFiles {
  readonly #pod: PodOfFiles;
  /** One at a time: what one container attaches may be what the next one is to have. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(pod: PodOfFiles) {
    this.#pod = pod;
  }

  /**
   * Attaches what a container sees, unless it is there for another one.
   * @returns sources of its mounts in the guest, by those that guestSpec() gave them, where they are others
   */
  attach(own: SandboxContainer, files: ContainerFiles): Promise<Map<string, string>> {
    return this.#inTurn(() => this.#attach(own, files));
  }

  /** Takes away what only this container, which has left the record, has seen. The guest lets go of it first. */
  detach(own: SandboxContainer): Promise<void> {
    return this.#inTurn(() => this.#detach(own));
  }

  async #attach(own: SandboxContainer, { shares, ...files }: ContainerFiles): Promise<Map<string, string>> {
    const { record, paths, executor, agent, sharePid } = this.#pod;
    const [id, serial] = [own.id ?? '', own.serial ?? 0];
    const others = (record.containers ?? []).filter((container) => container !== own);
    const present = others.flatMap(({ volumes }) => volumes ?? []);
    const wanted = shares.map((share) => {
      const [key, path] = [volumeKey(share), `${shareDirectory(serial)}/${share.name}`];
      // Who may only read gets what others may write to, and its own mount in the guest is read-only.
      const known = present.find(
        (each) => key !== '' && each.key === key && (share.readOnly || !each.readOnly),
      );
      return { share, path, key, known };
    });
    const missing = wanted.filter(({ known }) => known === undefined).map(({ share }) => share);
    own.shares = [...(files.rootfs === undefined ? [] : ['rootfs']), ...missing.map(({ name }) => name)];
    this.#pod.save();
    const plan = containerSharePlan({
      ...files,
      id,
      serial,
      daemonPid: sharePid,
      share: paths.share,
      shares: missing,
    });
    const run = { op: 'create', id, key: `/vm/share-${serial}` };
    await runHelper(executor, run, plan).catch((error: unknown) => {
      throw nameMount(error, plan);
    });
    own.volumes = wanted.map(
      ({ share, path, key, known }) => known ?? { path, key, readOnly: share.readOnly },
    );
    this.#pod.save();
    const inGuest = (path: string): string => `${agent.places.share}/${path}`;
    return new Map(
      wanted.flatMap(({ path, known }) => (known ? [[inGuest(path), inGuest(known.path ?? '')]] : [])),
    );
  }

  async #detach(own: SandboxContainer): Promise<void> {
    const { record, executor, agent, sharePid, hasShare } = this.#pod;
    const [id, serial] = [own.id ?? '', own.serial ?? 0];
    const pathsOf = ({ volumes }: SandboxContainer): string[] =>
      (volumes ?? []).map(({ path }) => path ?? '');
    const used = new Set((record.containers ?? []).flatMap(pathsOf));
    const made = (own.shares ?? []).map((name) => `${shareDirectory(serial)}/${name}`);
    const paths = [...new Set([...made, ...pathsOf(own)])].filter((path) => !used.has(path));
    const inGuest = paths.map((path) => `${agent.places.share}/${path}`);
    const refusal = await agent
      .container(id)
      .remove(inGuest)
      .then(
        () => undefined,
        (error: unknown) => ({ error }),
      );
    // On the host it goes away whatever the guest says.
    if (hasShare) {
      const plan = containerUnsharePlan({ id, daemonPid: sharePid, paths });
      await runHelper(executor, { op: 'delete', id, key: `/vm/unshare-${serial}` }, plan);
    }
    if (refusal !== undefined) throw refusal.error;
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(run);
    this.#turn = mine.catch(() => {});
    return mine;
  }
}

/** Equal for shares of the same files, with the same mounts in them; '' for what has gone. */
function volumeKey({ source, recursive, readOnlyBelow, follows }: Share): string {
  const info = statSync(source, { throwIfNoEntry: false });
  if (info === undefined) return '';
  const below = recursive
    ? mountsBelow(realpathSync(source), readFileSync('/proc/self/mountinfo', 'utf8'))
    : [];
  return JSON.stringify([source, info.dev, info.ino, recursive, readOnlyBelow, follows, below]);
}

/** Ids of the mounts below a path, by proc_pid_mountinfo(5). */
export function mountsBelow(path: string, mountinfo: string): string[] {
  return mountinfo.split('\n').flatMap((line) => {
    const [id = '', , , , at = ''] = line.split(' ');
    // Space, tab, newline and backslash are written as \ooo.
    const point = at.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
    return point !== path && isBelow(path, point) ? [id] : [];
  });
}
