/** One invocation of the command line: what the verbs share. Costly parts are made when first asked for. */
import { appendFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { createLogger } from '../base/log.ts';
import type { Logger } from '../base/log.ts';
import { StateStore } from '../state/index.ts';
import type { Globals } from './globals.ts';
import { writeAll } from './output.ts';

/** All containers of a state root are in one namespace: runc knows none. */
export const NAMESPACE = 'cli';

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  cwd: string;
  uid: number;
  pid: number;
}

export class Session {
  readonly globals: Globals;
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  readonly uid: number;
  readonly pid: number;
  readonly log: Logger;
  readonly store: StateStore;

  constructor(globals: Globals, around: Surroundings) {
    this.globals = globals;
    this.env = around.env;
    this.cwd = around.cwd;
    this.uid = around.uid;
    this.pid = around.pid;
    this.log = createLogger(logSink(globals.log), globals.debug ? 'debug' : 'info', globals.logFormat);
    this.store = new StateStore(resolve(around.cwd, globals.root));
  }

  /** Writes to standard output. */
  print(text: string): void {
    writeAll(1, text);
  }
}

/** Log lines go to the file, opened anew for each: it may be rotated, and there are few. */
export function logSink(file: string | undefined): (line: string) => void {
  if (file === undefined) return (line) => writeAll(2, line);
  return (line) => appendFileSync(file, line, { mode: 0o644 });
}
