/** How the standard streams of a container's process travel: our own descriptors, a console socket, or a relayed pty. */
import { closeSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { addon } from '../native/index.ts';
import type { Inheritance } from './local_executor.ts';
import { TerminalRelay } from './terminal.ts';

export interface IoRequest {
  op: string;
  id: string;
  /** What the executor calls the process. */
  key: string;
  terminal: boolean;
  /** The process outlives this command. */
  detach: boolean;
  consoleSocket: string | undefined;
  fixedSize: boolean;
  extraFds: number[];
}

export class LaunchIo {
  readonly inheritance: Inheritance;
  relay: TerminalRelay | undefined;

  /** InvalidArgument when terminal, detachment and console socket do not go together. */
  constructor(request: IoRequest) {
    checkConsole(request);
    const { key, terminal, extraFds } = request;
    this.inheritance = {
      key,
      stdio: terminal ? [-1, -1, -1] : [0, 1, 2],
      extraFds,
      onConsole: (master) => this.#onConsole(request, master),
    };
  }

  #onConsole(request: IoRequest, master: number): void {
    const { consoleSocket, op, id, fixedSize } = request;
    if (consoleSocket === undefined) {
      this.relay = new TerminalRelay(addon(), master, fixedSize);
      return;
    }
    try {
      addon().sendFd(consoleSocket, master, '/dev/ptmx');
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      throw new RuntimeError({
        code: ErrorCode.InvalidArgument,
        op,
        id,
        object: `console socket ${consoleSocket}`,
        reason: message,
        path: consoleSocket,
        errno: code,
        cause: error,
      });
    } finally {
      closeSync(master);
    }
  }
}

function checkConsole({ op, id, terminal, detach, consoleSocket }: IoRequest): void {
  const fault =
    detach && terminal && consoleSocket === undefined
      ? 'a terminal of a process that is left alone needs --console-socket'
      : consoleSocket !== undefined && !(detach && terminal)
        ? '--console-socket is for a process that has a terminal and is left alone (--detach or create)'
        : undefined;
  if (fault !== undefined) throw new RuntimeError({ code: ErrorCode.InvalidArgument, op, id, reason: fault });
}
