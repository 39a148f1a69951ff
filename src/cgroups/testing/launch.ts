/** Runs programs in a container's cgroups by bulkhead-init, for tests on a real host (root, native parts built). */
import { randomBytes } from 'node:crypto';
import { accessSync, constants, closeSync, openSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bulkhead } from '../../gen/bulkhead.js';
import { Launcher, type Launched } from '../../native/launcher.ts';
import type { LinuxResources } from '../../oci/types.ts';
import type { CgroupLayout } from '../host.ts';
import { killCgroup } from '../kill.ts';
import { parseCgroupsPath } from '../path.ts';
import { contributeCgroups, execJoinSteps, type CgroupContribution } from '../plan.ts';
import { removeCgroups } from '../remove.ts';

const initPath = join(import.meta.dirname, '../../../build/native/bulkhead-init');

/** Why tests on the real host cannot run here; undefined when they can. */
export function whyNotReal(layout: () => CgroupLayout): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  try {
    const { hierarchies, unified } = layout();
    accessSync(hierarchies[0]?.mountPoint ?? unified?.mountPoint ?? '', constants.W_OK);
    return undefined;
  } catch {
    return 'needs a writable cgroup file system';
  }
}

/** One container's cgroups, with a name of their own below a parent of their own. */
export class RealCgroups {
  readonly id = `bh-${randomBytes(4).toString('hex')}`;
  readonly layout: CgroupLayout;
  readonly cgroups: CgroupContribution;

  constructor(layout: CgroupLayout, resources: LinuxResources) {
    this.layout = layout;
    const location = parseCgroupsPath(`/${this.id}/one`, this.id);
    this.cgroups = contributeCgroups(resources, layout, location, { id: this.id });
  }

  get view() {
    return this.cgroups.view;
  }

  /** Makes the cgroups and runs a program in them. Resolves when it runs. */
  async run(args: string[], stdout?: string, namespaces = 0): Promise<Launched> {
    return this.#launch(this.cgroups.outer, args, stdout, namespaces);
  }

  /** Runs a further program in the cgroups. */
  async exec(initPid: number, args: string[]): Promise<Launched> {
    return this.#launch(execJoinSteps(this.view, readFileSync(`/proc/${initPid}/cgroup`, 'utf8')), args);
  }

  async #launch(
    outer: bulkhead.plan.v1.IStep[],
    args: string[],
    stdout?: string,
    namespaces = 0,
  ): Promise<Launched> {
    const plan = bulkhead.plan.v1.LaunchPlan.encode({
      version: 1,
      id: this.id,
      steps: [
        ...outer,
        { clone: { namespaces } },
        { exec: { file: args[0], args, env: ['PATH=/usr/bin:/bin'] } },
      ],
    }).finish();
    const fd = stdout === undefined ? -1 : openSync(stdout, 'w');
    try {
      const launched = new Launcher(initPath).launch({ plan, stdio: [-1, fd, fd] });
      await launched.advance();
      return launched;
    } finally {
      if (fd !== -1) closeSync(fd);
    }
  }

  /** Runs a program to its end, in new namespaces when given (CLONE_NEW*); what it wrote, and its wait status. */
  async output(args: string[], namespaces = 0): Promise<{ text: string; waitStatus: number }> {
    const file = join(tmpdir(), `${this.id}.out`);
    try {
      const { waitStatus } = await (await this.run(args, file, namespaces)).exited;
      return { text: readFileSync(file, 'utf8'), waitStatus };
    } finally {
      rmSync(file, { force: true });
    }
  }

  /** Kills and removes everything, the parent too. */
  async dispose(): Promise<void> {
    await killCgroup(this.view, { id: this.id });
    await removeCgroups(this.cgroups.paths, { id: this.id });
    for (const path of this.cgroups.paths) rmdirSync(join(path, '..'));
  }
}
