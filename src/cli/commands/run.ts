import { deleteContainer, forgetContainer } from '../../runtime/delete.ts';
import { startContainer } from '../../runtime/start.ts';
import type { Command } from '../command.ts';
import { createFlags, createFromFlags, undoCreate } from '../create_flow.ts';
import type { Created } from '../create_flow.ts';
import type { Arguments } from '../flags.ts';
import { lockContainer } from '../load.ts';
import { NAMESPACE } from '../session.ts';
import type { Session } from '../session.ts';
import { SignalForwarder } from '../signals.ts';

export const run: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [
    ...createFlags,
    { name: 'detach', alias: 'd', kind: 'boolean', usage: 'do not wait for the container' },
    { name: 'keep', kind: 'boolean', usage: 'do not delete the container when it has ended' },
    {
      name: 'no-subreaper',
      kind: 'boolean',
      usage: 'accepted for runc’s sake: this command reaps none but its own',
    },
  ],
  async run(session, args) {
    const detach = args.boolean('detach');
    if (detach) {
      const { executor } = await createAndStart(session, args, true);
      executor.release();
      return 0;
    }
    using forwarder = new SignalForwarder();
    const created = await createAndStart(session, args, false);
    return await foreground(session, created, forwarder, args.boolean('keep'));
  },
};

async function createAndStart(session: Session, args: Arguments, detach: boolean): Promise<Created> {
  using _lock = lockContainer(session, args.operands[0] ?? '');
  const created = await createFromFlags(session, args, { op: 'run', detach, startFifo: false });
  try {
    await startContainer(created.ctx, created.container);
  } catch (error) {
    await undoCreate(created, error);
    throw error;
  }
  return created;
}

/** Waits for the container to end, removes it unless `keep`, and resolves with its exit code. */
async function foreground(
  session: Session,
  created: Created,
  forwarder: SignalForwarder,
  keep: boolean,
): Promise<number> {
  const { ctx, container, executor, io } = created;
  const { id, init } = container;
  forwarder.open((signum) => {
    executor.signal(id, signum).catch((error: unknown) => {
      session.log.debug('signal not forwarded', { id, signum, error: String(error) });
    });
  });
  const { exitCode } = await init.exited;
  await io.relay?.finish();
  using _lock = lockContainer(session, id);
  if (!session.store.exists(NAMESPACE, id)) return exitCode;
  if (keep) {
    ctx.store.save(container.record);
    return exitCode;
  }
  await deleteContainer(ctx, container, true);
  forgetContainer(ctx, container);
  return exitCode;
}
