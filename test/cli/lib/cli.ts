import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { quote, run, type RunOptions, type RunResult } from '../../e2e/lib/exec.ts';
import { makeRootfs } from '../../e2e/lib/image.ts';
import { cgroupMounts } from '../../e2e/lib/leaks.ts';
import { prefix, scratch } from '../../e2e/lib/paths.ts';

/** The command under test: "runc", or ours out of the installation under test. */
export const isRunc = process.env.BULKHEAD_TEST_CLI === 'runc';
export const program = isRunc ? 'runc' : join(prefix, 'bin', 'bulkhead');

/** BULKHEAD_TEST_WALL: the suite behind another wall than the default one. */
export const wallUnderTest = process.env.BULKHEAD_TEST_WALL ?? 'namespace';
/** Tests of what only a container with the host's ids and pids can do. */
export const hasHostsIds = wallUnderTest === 'namespace';
const wall = wallUnderTest === 'namespace' ? [] : ['--wall', wallUnderTest];

/** A config.json as a test changes it: what `spec` writes, as loose JSON. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Config = any;

/** One state root with one bundle, and the command run on them. */
export class Cli {
  readonly dir: string;
  readonly root: string;
  readonly bundle: string;
  #next = 0;

  constructor() {
    this.dir = mkdtempSync(join(scratch(), 'cli-'));
    this.root = join(this.dir, 'state');
    this.bundle = join(this.dir, 'bundle');
  }

  /** Makes the bundle: what `spec` writes, without a terminal. */
  async prepare(): Promise<void> {
    mkdirSync(this.bundle);
    await makeRootfs(join(this.bundle, 'rootfs'));
    const made = await run(program, ['spec', '--bundle', this.bundle]);
    if (made.code !== 0) throw new Error(`spec: ${made.stderr}`);
    this.configure((config) => {
      config.process.terminal = false;
      config.process.noNewPrivileges = false;
    });
  }

  configure(change: (config: Config) => void): void {
    const config: Config = JSON.parse(readFileSync(this.configPath, 'utf8'));
    change(config);
    writeFileSync(this.configPath, JSON.stringify(config));
  }

  get configPath(): string {
    return join(this.bundle, 'config.json');
  }

  /** A container id that nobody else has; also the name of its cgroups. */
  id(name = 'c'): string {
    return `${basename(scratch())}-${name}-${process.pid}-${this.#next++}`;
  }

  run(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return run(program, ['--root', this.root, ...wall, ...args], {
      cwd: this.bundle,
      timeout: 15_000,
      ...options,
    });
  }

  /** Runs a verb that must succeed; resolves with its standard output. */
  async ok(...args: string[]): Promise<string> {
    const result = await this.run(args);
    if (result.code !== 0) throw new Error(`${args.join(' ')}: exit ${result.code}: ${result.stderr}`);
    return result.stdout;
  }

  /**
   * Runs a verb whose process outlives the command and keeps its standard streams: these are files, for a pipe would
   * not end. Resolves with what the command and the process have printed so far.
   */
  async leaving(
    verb: string,
    id: string,
    flags: readonly string[] = [],
    more: readonly string[] = [],
  ): Promise<RunResult> {
    const words = [program, '--root', this.root, ...wall, verb, ...flags, id, ...more].map(quote).join(' ');
    const result = await run('sh', ['-c', `exec ${words} >${this.#outputPath(id)} 2>&1`], {
      cwd: this.bundle,
    });
    return { ...result, stderr: this.output(id) };
  }

  /** Starts a container that stays; `args` is its command. */
  async detached(args: readonly string[], flags: readonly string[] = []): Promise<string> {
    return this.#left('run', args, ['-d', ...flags]);
  }

  /** Creates a container; `args` is its command. */
  async created(args: readonly string[], flags: readonly string[] = []): Promise<string> {
    return this.#left('create', args, flags);
  }

  async #left(verb: string, args: readonly string[], flags: readonly string[]): Promise<string> {
    const id = this.id();
    this.configure((config) => {
      config.process.args = args;
    });
    const result = await this.leaving(verb, id, flags);
    if (result.code !== 0) throw new Error(`${verb}: exit ${result.code}: ${result.stderr}`);
    return id;
  }

  #outputPath(id: string): string {
    return join(this.dir, `${id}.out`);
  }

  output(id: string): string {
    return readFileSync(this.#outputPath(id), 'utf8');
  }

  async state(id: string): Promise<Config> {
    return JSON.parse(await this.ok('state', id));
  }

  async status(id: string): Promise<string> {
    return (await this.state(id)).status;
  }

  /** Files, cgroups, mounts and processes that containers of this root left; empty when all is well. */
  leftovers(): string[] {
    return [...this.#stateFiles(), ...this.#cgroups(), ...this.#mounts(), ...this.#processes()];
  }

  /** Removes what a failed test left, so that the next one does not find it. */
  async clean(): Promise<void> {
    const ids = (await this.run(['list', '-q'])).stdout.split('\n').filter((id) => id !== '');
    for (const id of ids) await this.run(['delete', '--force', id]);
  }

  async destroy(): Promise<void> {
    await this.clean();
    rmSync(this.dir, { recursive: true, force: true });
  }

  #stateFiles(): string[] {
    if (!existsSync(this.root)) return [];
    return readdirSync(this.root, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name));
  }

  #cgroups(): string[] {
    const own = `${basename(scratch())}-`;
    return cgroupMounts().flatMap((mount) =>
      directories(mount)
        .filter((path) => basename(path).startsWith(own))
        .map((path) => `cgroup ${path}`),
    );
  }

  #mounts(): string[] {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(this.dir))
      .map((line) => `mount ${line}`);
  }

  /** Processes in cgroups of this run; one that has ended and waits for its parent is not left over. */
  #processes(): string[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => read(`/proc/${pid}/cgroup`).includes(`/${basename(scratch())}-`))
      .filter((pid) => !/^State:\s*[ZX]/m.test(read(`/proc/${pid}/status`)))
      .map((pid) => `process ${pid} ${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`);
  }
}

/** Directories two levels deep: containers may be below this process's own cgroup. */
const directories = (path: string, depth = 3): string[] => {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => {
        const child = join(path, entry.name);
        return depth === 0 ? [child] : [child, ...directories(child, depth - 1)];
      });
  } catch {
    return [];
  }
};

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};
