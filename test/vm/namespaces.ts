/** Network namespaces of a test's own: they live as long as a sleeping process in each, which ends by itself after a while. */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { until } from '../contract/monitor/harness.ts';

export class Namespace {
  readonly #holder: ChildProcess;

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
  }

  static async make(): Promise<Namespace> {
    const holder = spawn('unshare', ['--net', 'sleep', '900'], { stdio: 'ignore' });
    const own = readlinkSync('/proc/self/ns/net');
    const made = new Namespace(holder);
    await until('a namespace', () => linkOf(made.path) !== own && linkOf(made.path) !== '');
    return made;
  }

  get pid(): number {
    return this.#holder.pid ?? 0;
  }
  get path(): string {
    return `/proc/${this.pid}/ns/net`;
  }

  /** Runs a shell script in the namespace; throws when it fails. */
  sh(script: string): string {
    return execFileSync('nsenter', [`--net=${this.path}`, 'sh', '-ec', script], { encoding: 'utf8' });
  }

  /** Starts a process in the namespace. */
  spawn(script: string): ChildProcess {
    return spawn('nsenter', [`--net=${this.path}`, 'sh', '-ec', script], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  }

  dispose(): void {
    this.#holder.kill('SIGKILL');
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
