import type { Command } from '../command.ts';
import { createFlags, createFromFlags } from '../create_flow.ts';
import { lockContainer } from '../load.ts';

export const create: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: createFlags,
  async run(session, args) {
    using _lock = lockContainer(session, args.operands[0] ?? '');
    const { executor } = await createFromFlags(session, args, {
      op: 'create',
      detach: true,
      startFifo: true,
    });
    executor.release();
    return 0;
  },
};
