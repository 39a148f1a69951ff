import { pauseContainer } from '../../runtime/pause.ts';
import type { Command } from '../command.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';

export const pause: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [],
  async run(session, args) {
    const id = args.operands[0] ?? '';
    using _lock = lockContainer(session, id);
    const ctx = runtimeContext(session);
    await pauseContainer(ctx, loadContainer(session, ctx, 'pause', id));
    return 0;
  },
};
