/** One boot of the lab's machine: the job runs in it, its deadline is kept, and nothing of it stays behind. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface BootInput {
  qemu: string;
  args: string[];
  /** Directory of this boot: job.sh goes there; status and whatever the job writes come back in it. */
  dir: string;
  /** The job: a script for bash, run in the source tree. */
  job: string;
  deadlineMs: number;
  /** Until the job begins. */
  readyMs: number;
  /** From one beat of the machine's heart (ALIVE, by init.sh every five seconds) to the next. */
  silentMs: number;
  /** Told of every piece of the console's text. */
  onConsole: (text: string) => void;
  /** When this file appears in the directory, the power is cut. */
  cutAt?: string | undefined;
}

export interface BootResult {
  /** Exit status of the job; undefined when the machine went before it ended. */
  status: number | undefined;
  /** Why there is no status, for people; undefined too when the power was cut as asked. */
  failure: string | undefined;
  /** The machine itself went wrong, and not what was tested in it: it went off with its job undone, or stood still. */
  broken: boolean;
  /** The job has begun. When it has not, the machine may be started again: nobody has seen anything of it. */
  ready: boolean;
  /** The power was cut, as the job had asked. */
  cut: boolean;
  seconds: number;
  /** The console's last lines. */
  lastWords: string;
}

const LAST_LINES = 40;
const LAST_BYTES = 64 << 10;
const POLL_MS = 100;
/** A file of the boot's directory that init.sh writes to as long as the machine's time goes on. */
const ALIVE = 'alive';
/** What init.sh says before the job. */
const READY = 'lab: ready after';

/** Boots, waits for the end or the deadline, and kills what is left of the machine. */
export async function boot(input: BootInput): Promise<BootResult> {
  const started = performance.now();
  writeFileSync(join(input.dir, 'job.sh'), input.job);
  rmSync(join(input.dir, ALIVE), { force: true });
  // Killed with us, however we end: nobody else would look for an emulated machine at 200 % of a processor.
  const words = ['--pdeathsig', 'KILL', input.qemu, ...input.args];
  // A directory that does not exist: modules of the installed QEMU belong to another version.
  const env = { ...process.env, QEMU_MODULE_DIR: '/nonexistent' };
  const child = spawn('setpriv', words, { stdio: ['ignore', 'pipe', 'pipe'], env });
  let failure: string | undefined;
  const end = (reason: string): void => {
    failure ??= reason;
    child.kill('SIGKILL');
  };
  let console = '';
  let ready = false;
  let broken = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      console = (console + text).slice(-LAST_BYTES);
      ready ||= console.includes(READY);
      input.onConsole(text);
    });
  }
  const deadline = setTimeout(
    () => end(`no end within ${Math.round(input.deadlineMs / 1000)} s`),
    input.deadlineMs,
  );
  const start = setTimeout(() => {
    if (!ready) end(`has not come up within ${Math.round(input.readyMs / 1000)} s`);
  }, input.readyMs);
  const cut = input.cutAt === undefined ? undefined : join(input.dir, input.cutAt);
  const heart = heartOf(join(input.dir, ALIVE));
  const watch = setInterval(() => {
    if (cut !== undefined && existsSync(cut)) child.kill('SIGKILL');
    if (heart() <= input.silentMs) return;
    broken = true;
    end(`stands still: its time has not gone on for ${Math.round(input.silentMs / 1000)} s`);
  }, POLL_MS);
  const code = await new Promise<number | null>((resolve) => {
    child.once('error', (error) => end(error.message));
    child.once('close', resolve);
  });
  clearTimeout(deadline);
  clearTimeout(start);
  clearInterval(watch);
  const status = readStatus(join(input.dir, 'status'));
  const wasCut = failure === undefined && cut !== undefined && existsSync(cut);
  if (status === undefined && !wasCut && failure === undefined) {
    failure = `the machine went off by itself (QEMU: ${code})`;
    broken = true;
  }
  return {
    status: failure === undefined ? status : undefined,
    failure,
    broken,
    ready,
    cut: wasCut,
    seconds: (performance.now() - started) / 1000,
    lastWords: lastLines(console),
  };
}

/** Milliseconds since the file was last seen to change; none before it is there. */
function heartOf(path: string): () => number {
  let beat: number | undefined;
  let at = 0;
  return () => {
    const seen = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (seen !== beat) {
      beat = seen;
      at = performance.now();
    }
    return beat === undefined ? 0 : performance.now() - at;
  };
}

function readStatus(path: string): number | undefined {
  if (!existsSync(path)) return undefined;
  const text = readFileSync(path, 'utf8').trim();
  return /^\d+$/.test(text) ? Number(text) : undefined;
}

function lastLines(text: string): string {
  return text.trimEnd().split(/\r?\n/).slice(-LAST_LINES).join('\n');
}
