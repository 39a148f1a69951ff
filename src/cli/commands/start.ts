import { startContainer } from '../../runtime/start.ts';
import type { Command } from '../command.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';

export const start: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [],
  async run(session, args) {
    const id = args.operands[0] ?? '';
    using _lock = lockContainer(session, id);
    const ctx = runtimeContext(session);
    await startContainer(ctx, loadContainer(session, ctx, 'start', id));
    return 0;
  },
};
