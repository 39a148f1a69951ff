/** Signals by name and number, and forwarding of our own to a container. */
import { constants } from 'node:os';

/** glibc's; the kernel's 32 and 33 are its threads'. */
const SIGRTMIN = 34;
const SIGRTMAX = 64;

const byName: Readonly<Record<string, number>> = constants.signals;

/** 15 for "TERM", "SIGTERM", "sigterm" or "15"; 34 for "RTMIN", 36 for "RTMIN+2". undefined: no such signal. */
export function signalNumber(text: string): number | undefined {
  if (/^\d{1,2}$/.test(text)) {
    const number = Number(text);
    return number <= SIGRTMAX ? number : undefined;
  }
  const name = text.toUpperCase().replace(/^(SIG)?/, 'SIG');
  if (Object.hasOwn(byName, name)) return byName[name];
  const realTime = /^SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realTime === null) return undefined;
  const offset = Number(realTime[3] ?? 0) * (realTime[2] === '-' ? -1 : 1);
  const number = (realTime[1] === 'MIN' ? SIGRTMIN : SIGRTMAX) + offset;
  return number >= SIGRTMIN && number <= SIGRTMAX ? number : undefined;
}

/** Not to be forwarded: about our own children, pipes, terminal and interpreter, or not to be caught. */
const kept = new Set(['SIGKILL', 'SIGSTOP', 'SIGCHLD', 'SIGPIPE', 'SIGURG', 'SIGWINCH', 'SIGPROF']);
/** The kernel sends them for a fault of the program itself. */
const faults = new Set([
  'SIGSEGV',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGTRAP',
  'SIGSYS',
  'SIGABRT',
  'SIGIOT',
  'SIGSTKFLT',
]);

/** Forwards signals to a container's process from `open` on; those that came before are sent then. */
export class SignalForwarder implements Disposable {
  readonly #handlers = new Map<NodeJS.Signals, () => void>();
  readonly #early: number[] = [];
  #send: ((signum: number) => void) | undefined;

  constructor() {
    for (const [name, number] of Object.entries(constants.signals)) {
      if (kept.has(name) || faults.has(name)) continue;
      this.#on(name as NodeJS.Signals, number);
    }
  }

  open(send: (signum: number) => void): void {
    this.#send = send;
    for (const signum of this.#early.splice(0)) send(signum);
  }

  [Symbol.dispose](): void {
    for (const [name, handler] of this.#handlers) process.off(name, handler);
    this.#handlers.clear();
  }

  #on(name: NodeJS.Signals, signum: number): void {
    const handler = (): void => {
      if (this.#send === undefined) this.#early.push(signum);
      else this.#send(signum);
    };
    // Two names of one number (SIGIO and SIGPOLL): one handler would hear it twice.
    if ([...this.#handlers.keys()].some((other) => byName[other] === signum)) return;
    process.on(name, handler);
    this.#handlers.set(name, handler);
  }
}
