import { VERSION } from '../../base/version.ts';
import { seccompInfo } from '../../native/seccomp.ts';
import { features as featuresOf } from '../../runtime/features.ts';
import type { Command } from '../command.ts';

export const features: Command = {
  operands: '',
  count: [0, 0],
  flags: [],
  async run(session) {
    const annotations = { 'io.bulkhead.version': VERSION };
    session.print(`${JSON.stringify(featuresOf(seccompInfo(), annotations), null, 2)}\n`);
    return 0;
  },
};
