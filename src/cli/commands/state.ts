import type { Command } from '../command.ts';
import { containerState } from '../container_state.ts';
import { loadRecord } from '../record.ts';

export const state: Command = {
  operands: '<container-id>',
  count: [1, 1],
  flags: [],
  async run(session, args) {
    const record = loadRecord(session, 'state', args.operands[0] ?? '');
    session.print(`${JSON.stringify(containerState(record), null, 2)}\n`);
    return 0;
  },
};
