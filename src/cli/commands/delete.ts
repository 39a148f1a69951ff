import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { addon } from '../../native/index.ts';
import type { Container } from '../../runtime/container.ts';
import { deleteContainer, forgetContainer } from '../../runtime/delete.ts';
import { Status, statusName } from '../../runtime/lifecycle.ts';
import type { Command } from '../command.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';
import { NAMESPACE } from '../session.ts';

const SIGKILL = 9;

export const deleteCommand: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [
    {
      name: 'force',
      alias: 'f',
      kind: 'boolean',
      usage: 'kill the container first; a missing one is no error',
    },
  ],
  async run(session, args) {
    const id = args.operands[0] ?? '';
    const force = args.boolean('force');
    using _lock = lockContainer(session, id);
    if (force && !session.store.exists(NAMESPACE, id)) return 0;
    const ctx = runtimeContext(session);
    const container = loadContainer(session, ctx, 'delete', id);
    if (!force) checkDeletable(container);
    settleOnExit(container);
    await deleteContainer(ctx, container, true);
    forgetContainer(ctx, container);
    return 0;
  },
};

function checkDeletable(container: Container): void {
  const { id, status } = container;
  if (status === Status.STATUS_STOPPED || status === Status.STATUS_CREATED) return;
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'delete',
    id,
    reason: `cannot delete container ${id} that is not stopped: ${statusName(status)}`,
    remedy: 'kill it first, or use --force',
  });
}

/** Its parent is not this command, which therefore sees that it ends, not how. */
function settleOnExit({ init }: Container): void {
  if (init.isStopped || init.pid === 0) return;
  void addon()
    .waitPidGone(init.pid)
    .then(() => {
      init.recordExit({ key: init.key, pid: init.pid, waitStatus: SIGKILL, exitedAtNs: Date.now() * 1e6 });
      init.announceExit();
    });
}
