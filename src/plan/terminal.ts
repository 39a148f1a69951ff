/** The terminal and the start gate. */
import type { Process } from '../oci/types.ts';
import type { StartGate, Step } from './inputs.ts';
import { START_GATE } from './hooks.ts';

/** O_RDONLY|O_NONBLOCK: opening a fifo for reading would otherwise wait for a writer. */
const O_NONBLOCK = 0o4000;

/** The pty comes from the container's own devpts; /dev/console only for the first process. */
export function terminal(process: Process, mountConsole: boolean): Step[] {
  if (process.terminal !== true) return [];
  const { width = 0, height = 0 } = process.consoleSize ?? {};
  return [{ terminal: { mountConsole, uid: process.user.uid, width, height } }];
}

export function startGate(gate: StartGate, nextSlot: () => number): { sources: Step[]; gate: Step } {
  if (gate.kind === 'sync') return { sources: [], gate: { gate: { point: START_GATE } } };
  const slot = nextSlot();
  return {
    sources: [{ openFile: { slot, path: gate.path, flags: O_NONBLOCK } }],
    gate: { gate: { point: START_GATE, fifoSlot: slot } },
  };
}
