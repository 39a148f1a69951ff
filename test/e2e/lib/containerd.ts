import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { containerdConfig, type CriOptions } from './config.ts';
import { EventStream } from './events.ts';
import { eventually, onTerminal, patience, run, type RunOptions, type RunResult } from './exec.ts';
import { images, testImage } from './image.ts';
import { findLeaks, killAll, markedProcesses, mountsBelow, sharedFiles } from './leaks.ts';
import { guestCache, peers, prefix, runtime, scratch } from './paths.ts';

/** 1.6 is Debian 12's own; 1.7 (trixie) and 2 (sid) come from build/peers. */
export type Version = '1.6' | '1.7' | '2';

export interface StartOptions {
  version?: Version;
  /** Turns the CRI plugin on; off otherwise, which halves the start of containerd. */
  cri?: CriOptions;
  /** Root file systems are ext4 images (snapshotter "blockfile", containerd 1.7 and later) and not overlays. */
  blockfile?: boolean;
  /** Text of the file that BULKHEAD_CONFIG names. */
  bulkheadConfig?: string;
  /** Guest images and templates; those of all runs unless told. */
  cache?: string;
  /** More lines of its table [vm]. */
  vmConfig?: string;
  /** Another installation than the one under test. */
  prefix?: string;
  /** The runtime that `ctr run` is given; the one under test unless told. */
  runtime?: string;
  /** More environment for containerd and, through it, the shim. */
  env?: Record<string, string>;
}

export interface CtrOptions extends RunOptions {
  /** Runs ctr on a terminal of 24 rows and 80 columns, or of the size given. */
  tty?: boolean | { rows: number; columns: number };
  namespace?: string;
}

export interface ContainerOptions extends CtrOptions {
  /** Flags of `ctr run` before the image, such as `--memory-limit`. */
  flags?: readonly string[];
  runtime?: string;
}

const binaries: Record<Version, string> = {
  '1.6': '/usr/bin',
  '1.7': join(peers, 'containerd-1.7/usr/bin'),
  '2': join(peers, 'containerd-2/usr/bin'),
};

/** A containerd with its own root, state, sockets and cgroups, whose shims come from the installation under test. */
export class PrivateContainerd {
  /** Those that have been started and not stopped: a test that fails shows their logs (failures.ts). */
  static readonly running = new Set<PrivateContainerd>();
  readonly dir: string;
  /** containerd namespace of `ctr`, unique on this machine, and so the first part of every cgroup path. */
  readonly namespace: string;
  readonly version: Version;
  readonly address: string;
  /** BULKHEAD_ROOT of this containerd's shims: engine socket, log, task state. */
  readonly bulkheadRoot: string;
  readonly env: NodeJS.ProcessEnv;
  readonly before: ReadonlySet<string> = new Set(sharedFiles());
  private readonly options: StartOptions;
  private daemon: ChildProcess | undefined;
  private readonly streams: EventStream[] = [];

  private constructor(options: StartOptions) {
    this.options = options;
    this.version = options.version ?? '1.6';
    this.dir = mkdtempSync(join(scratch(), 'c-'));
    this.namespace = `${basename(scratch())}-${basename(this.dir)}`;
    this.address = join(this.dir, 'containerd.sock');
    this.bulkheadRoot = join(this.dir, 'bulkhead');
    const config = join(this.dir, 'bulkhead.toml');
    const { vmConfig = '' } = options;
    const patient = vmConfig.includes('boot_timeout_seconds') ? '' : 'boot_timeout_seconds = 240\n';
    writeFileSync(
      config,
      `${options.bulkheadConfig ?? ''}\n[vm]\ncache = ${JSON.stringify(options.cache ?? guestCache)}\n${patient}${vmConfig}`,
    );
    this.env = {
      PATH: `${join(options.prefix ?? prefix, 'bin')}:${binaries[this.version]}:/usr/sbin:/usr/bin:/sbin:/bin`,
      BULKHEAD_ROOT: this.bulkheadRoot,
      BULKHEAD_CONFIG: config,
      ...options.env,
    };
  }

  /** Starts containerd, waits until it answers and imports the test images. */
  static async start(options: StartOptions = {}): Promise<PrivateContainerd> {
    const containerd = new PrivateContainerd(options);
    PrivateContainerd.running.add(containerd);
    try {
      await containerd.#mountRun();
      const { dir, version, address } = containerd;
      const { cri } = options;
      const blockfile = options.blockfile === true ? makeScratchImage(dir) : undefined;
      writeFileSync(join(dir, 'config.toml'), containerdConfig({ dir, version, address, cri, blockfile }));
      await containerd.launch();
      await containerd.import();
    } catch (error) {
      const log = containerd.log();
      await containerd.stop();
      throw new Error(`containerd ${containerd.version} did not come up: ${log.slice(-3000)}`, {
        cause: error,
      });
    }
    return containerd;
  }

  /** What lives below /run on a real machine, for containerd and for shims, is on a tmpfs here too. */
  async #mountRun(): Promise<void> {
    for (const path of [join(this.dir, 'state'), this.bulkheadRoot]) {
      mkdirSync(path, { mode: 0o700 });
      const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'mode=0700', 'tmpfs', path]);
      if (mounted.code !== 0) throw new Error(`mount tmpfs ${path}: ${mounted.stderr}`);
    }
  }

  /** Starts the daemon (again): containers that run are found and taken up as after a crash or an upgrade. */
  async launch(): Promise<void> {
    const log = openSync(join(this.dir, 'containerd.log'), 'a');
    const command = [join(binaries[this.version], 'containerd'), '--config', join(this.dir, 'config.toml')];
    // CRI's bridges and addresses belong in a network namespace that goes away with the daemon.
    const inNet = ['unshare', '--net', '--', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh', ...command];
    const [file = '', ...args] = this.options.cri ? inNet : command;
    this.daemon = spawn(file, args, {
      env: this.env,
      cwd: this.dir,
      stdio: ['ignore', log, log],
      detached: true,
    });
    const daemon = this.daemon;
    await eventually('containerd to answer', async () => {
      if (daemon.exitCode !== null) throw new Error(`containerd exited with ${daemon.exitCode}`);
      return (await this.ctr(['version'], { timeout: 5_000 })).code === 0;
    });
  }

  get snapshotter(): string {
    return this.options.blockfile === true ? 'blockfile' : 'overlayfs';
  }

  get pid(): number {
    return this.daemon?.pid ?? 0;
  }

  private async import(): Promise<void> {
    const archive = await images();
    for (const namespace of this.options.cri ? [this.namespace, 'k8s.io'] : [this.namespace]) {
      const result = await this.ctr(['image', 'import', '--snapshotter', this.snapshotter, archive], {
        namespace,
      });
      if (result.code !== 0) throw new Error(`ctr image import: ${result.stderr}`);
    }
  }

  /**
   * Runs the ctr of this containerd's own version. With `stdin` and no terminal the command must print something
   * before it waits for the end of its input.
   */
  ctr(args: readonly string[], options: CtrOptions = {}): Promise<RunResult> {
    const { tty, namespace, ...rest } = options;
    const ctr = join(binaries[this.version], 'ctr');
    const words = ['--address', this.address, '--namespace', namespace ?? this.namespace, ...args];
    const size = typeof tty === 'object' ? tty : { rows: 24, columns: 80 };
    const [file, all] = tty ? onTerminal(ctr, words, size.rows, size.columns) : [ctr, words];
    // ctr forgets an end of input that comes before it has made the task, and then the container waits for ever.
    const piped = rest.stdin !== undefined && !tty;
    const typed = rest.stdin === undefined && Boolean(tty);
    return run(file, all, { env: this.env, endStdinAfterOutput: piped, keepStdinOpen: typed, ...rest });
  }

  /** `ctr run --runtime RUNTIME FLAGS IMAGE ID COMMAND…`, attached and removed afterwards unless flags say else. */
  run(id: string, command: readonly string[], options: ContainerOptions = {}): Promise<RunResult> {
    const { flags = ['--rm'], runtime: chosen, ...rest } = options;
    const tty = rest.tty ? ['-t'] : [];
    const name = chosen ?? this.options.runtime ?? runtime;
    const root = this.options.blockfile === true ? ['--snapshotter', 'blockfile'] : [];
    return this.ctr(['run', '--runtime', name, ...root, ...tty, ...flags, testImage, id, ...command], rest);
  }

  /** Starts a detached container and fails with ctr's own words when that fails. */
  async detached(id: string, command: readonly string[], flags: readonly string[] = []): Promise<void> {
    const result = await this.run(id, command, { flags: ['-d', ...flags] });
    if (result.code !== 0) throw new Error(`ctr run -d ${id}: ${result.stderr}`);
  }

  /** `ctr task exec` without a terminal unless asked for one. */
  exec(id: string, execId: string, command: readonly string[], options: CtrOptions = {}): Promise<RunResult> {
    const tty = options.tty ? ['-t'] : [];
    return this.ctr(['task', 'exec', ...tty, '--exec-id', execId, id, ...command], options);
  }

  /** Status by `ctr task ls`: RUNNING, STOPPED, CREATED, PAUSED, or undefined when there is no such task. */
  async status(id: string): Promise<string | undefined> {
    return (await this.tasks()).get(id)?.status;
  }

  /** Every task of the namespace. */
  async tasks(): Promise<Map<string, { pid: number; status: string }>> {
    const result = await this.ctr(['task', 'ls']);
    const rows = result.stdout.trim().split('\n').slice(1);
    return new Map(
      rows.map((row) => {
        const [id = '', pid = '', status = ''] = row.trim().split(/\s+/);
        return [id, { pid: Number(pid), status }];
      }),
    );
  }

  /** Waits until the command of a container has made /ready: process 1 is deaf to a signal that comes before its trap. */
  async ready(id: string): Promise<void> {
    let tries = 0;
    await eventually(`${id} to be ready`, async () => {
      const { code } = await this.exec(id, `ready-${tries++}`, ['test', '-e', '/ready']);
      return code === 0;
    });
  }

  /** Kills, deletes and removes a detached container. */
  async remove(id: string): Promise<void> {
    await this.ctr(['task', 'kill', '--signal', 'SIGKILL', id]);
    await eventually(`${id} to stop`, async () => ['STOPPED', undefined].includes(await this.status(id)));
    // It may have been deleted by an attached ctr; then only the container is left.
    if ((await this.status(id)) !== undefined) await this.must(['task', 'delete', id]);
    await this.must(['container', 'rm', id]);
  }

  /** Runs ctr and fails with its own words when it fails. */
  private async must(args: readonly string[]): Promise<void> {
    const result = await this.ctr(args);
    if (result.code !== 0 && !result.stderr.includes('exit with non-zero exit code')) {
      throw new Error(`ctr ${args.join(' ')}: exit ${result.code}: ${result.stderr}`);
    }
  }

  /** Follows `ctr events` from now on. */
  async events(): Promise<EventStream> {
    const stream = await EventStream.open(this);
    this.streams.push(stream);
    return stream;
  }

  /** How a ctr of this containerd is spawned, for callers that stream its output. */
  command(args: readonly string[]): { file: string; args: string[]; env: NodeJS.ProcessEnv } {
    const words = ['--address', this.address, '--namespace', this.namespace, ...args];
    return { file: join(binaries[this.version], 'ctr'), args: words, env: this.env };
  }

  log(): string {
    return readText(join(this.dir, 'containerd.log'));
  }

  engineLog(): string {
    return readText(join(this.bulkheadRoot, 'engine.log'));
  }

  /**
   * What is left over while no container is known any more: processes, mounts, cgroups, sockets, fifos, network
   * namespaces, state files. Waits a moment for the shims to go, which they do after their answer to Shutdown.
   */
  async leaks(): Promise<string[]> {
    let found = findLeaks(this);
    const end = performance.now() + 5_000 * patience;
    while (found.length > 0 && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      found = findLeaks(this);
    }
    return found;
  }

  /** Stops containerd only; containers go on. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const daemon = this.daemon;
    this.daemon = undefined;
    if (!daemon || daemon.exitCode !== null) return;
    const gone = new Promise((resolve) => daemon.once('exit', resolve));
    daemon.kill(signal);
    await gone;
  }

  /** Ends everything that was started here and removes its files; safe to call twice. */
  async stop(): Promise<void> {
    PrivateContainerd.running.delete(this);
    for (const stream of this.streams) stream.close();
    await this.kill('SIGTERM');
    await killAll(() => markedProcesses(this));
    for (const mount of mountsBelow(this.dir).reverse()) await run('umount', ['-l', mount]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** What every image of the snapshotter begins as; for `mount_options` see containerdConfig. */
const makeScratchImage = (dir: string): string => {
  const path = join(dir, 'scratch.img');
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', path, '64m']);
  return path;
};

const readText = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};
