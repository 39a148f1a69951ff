/** The runtime layer over the addon, as the command line uses it, in this process. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { silentLogger } from '../../../src/base/log.ts';
import { LocalExecutor } from '../../../src/cli/local_executor.ts';
import { addon } from '../../../src/native/index.ts';
import type { Container } from '../../../src/runtime/container.ts';
import { exitCodeOf } from '../../../src/base/proc.ts';
import { createContainer } from '../../../src/runtime/create.ts';
import { deleteContainer, forgetContainer } from '../../../src/runtime/delete.ts';
import type { RuntimeContext } from '../../../src/runtime/context.ts';
import { BackendRegistry } from '../../../src/sandbox/registry.ts';
import { backendHost } from '../../../src/sandbox/host.ts';
import { StateStore } from '../../../src/state/index.ts';
import { root as tree, scratch } from '../../e2e/lib/paths.ts';
import { Bundle } from './bundles.ts';
import { FaultyBackend } from './faults.ts';
import type { Watched } from './host.ts';

export const initPath = join(tree, 'build/native/bulkhead-init');

export class Local {
  readonly dir = mkdtempSync(join(scratch(), 'faults-'));
  readonly state = join(this.dir, 'state');
  readonly tmp = join(this.dir, 'tmp');
  readonly backend = new FaultyBackend(backendHost(() => {}));
  readonly store = new StateStore(this.state);
  readonly executor = new LocalExecutor({ addon: addon(), initPath });
  readonly ctx: RuntimeContext;
  readonly watched: Watched = { directories: [this.state, this.tmp] };
  bundle!: Bundle;

  constructor() {
    mkdirSync(this.tmp);
    process.env.TMPDIR = this.tmp;
    const backends = new BackendRegistry();
    backends.register(this.backend);
    this.ctx = { store: this.store, backends, log: silentLogger, now: Date.now };
  }

  async prepare(): Promise<void> {
    this.bundle = await Bundle.make(join(this.dir, 'bundle'));
  }

  create(id: string, terminal = false, bundle = this.bundle.dir): Promise<Container> {
    const exit = new Promise<void>((resolve) => {
      const end = this.executor.onExit(({ key }) => {
        if (key === id) resolve(end());
      });
    });
    return createContainer(this.ctx, {
      id,
      namespace: 'faults',
      bundle,
      wall: 'namespace',
      rootfsMounts: [],
      stdio: { stdin: '', stdout: '', stderr: '', terminal },
      options: {},
      executor: this.executor,
      group: id,
    }).then((container) => {
      void exit.then(() => {
        container.init.recordExit({ key: id, pid: container.init.pid, waitStatus: 9, exitedAtNs: 0 });
        container.init.announceExit();
      });
      return container;
    });
  }

  async remove(container: Container): Promise<number> {
    const exit = await deleteContainer(this.ctx, container, true);
    forgetContainer(this.ctx, container);
    return exitCodeOf(exit.exitCode);
  }

  dispose(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
