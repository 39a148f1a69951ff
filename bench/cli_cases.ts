import { spawn, type StdioOptions } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { eventually, run } from '../test/e2e/lib/exec.ts';
import { makeRootfs } from '../test/e2e/lib/image.ts';
import { fresh } from './ctr_cases.ts';

/** A command-line runtime. */
export interface Cli {
  name: string;
  file: string;
}

/** One bundle that every runtime uses: a shell's namespaces, devices and limits as `ctr` asks for them. */
export class CliBench {
  private readonly bundle: string;
  private readonly root: string;
  private readonly env: NodeJS.ProcessEnv;
  private readonly cgroup: string;

  private constructor(dir: string, env: NodeJS.ProcessEnv) {
    this.bundle = join(dir, 'cli-bundle');
    this.root = join(dir, 'cli-state');
    this.env = env;
    this.cgroup = `/${basename(dir)}-cli`;
  }

  static async make(dir: string, env: NodeJS.ProcessEnv): Promise<CliBench> {
    const bench = new CliBench(dir, env);
    mkdirSync(join(bench.bundle, 'rootfs'), { recursive: true });
    await makeRootfs(join(bench.bundle, 'rootfs'));
    return bench;
  }

  /** Times one command. The container inherits its streams, so they are files: a pipe would stay open. */
  private async call(cli: Cli, args: readonly string[]): Promise<number> {
    const errors = join(this.bundle, 'errors.txt');
    const stderr = openSync(errors, 'w');
    const words = ['--root', join(this.root, cli.name), ...args];
    const options = { env: this.env, cwd: this.bundle, stdio: ['ignore', 'ignore', stderr] as StdioOptions };
    const started = performance.now();
    const code = await new Promise<number | null>((resolve, reject) => {
      spawn(cli.file, words, options).on('error', reject).on('exit', resolve);
    });
    const ms = performance.now() - started;
    closeSync(stderr);
    if (code === 0) return ms;
    throw new Error(`${cli.name} ${args.join(' ')}: exit ${code}: ${readFileSync(errors, 'utf8')}`);
  }

  private configure(id: string, command: readonly string[]): void {
    const config = spec(command, `${this.cgroup}/${id}`);
    writeFileSync(join(this.bundle, 'config.json'), JSON.stringify(config));
  }

  /** `RUNTIME run ID` of `true`: create, start, wait and delete in one command. */
  async run(cli: Cli): Promise<number> {
    const id = fresh('cli');
    this.configure(id, ['true']);
    return this.call(cli, ['run', '--bundle', this.bundle, id]);
  }

  /** Times of create, start, exec and delete of one container. */
  async steps(cli: Cli): Promise<{ create: number; start: number; exec: number; delete: number }> {
    const id = fresh('cli');
    this.configure(id, ['sleep', '1000']);
    const create = await this.call(cli, ['create', '--bundle', this.bundle, id]);
    const start = await this.call(cli, ['start', id]);
    const exec = await this.call(cli, ['exec', id, 'true']);
    await this.call(cli, ['kill', id, 'KILL']);
    await eventually(`${id} to stop`, async () => {
      const args = ['--root', join(this.root, cli.name), 'state', id];
      const state = await run(cli.file, args, { env: this.env });
      return (JSON.parse(state.stdout || '{}') as { status?: string }).status === 'stopped';
    });
    return { create, start, exec, delete: await this.call(cli, ['delete', id]) };
  }
}

const capabilities = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_NET_BIND_SERVICE',
];

const spec = (args: readonly string[], cgroupsPath: string): object => ({
  ociVersion: '1.0.2',
  process: {
    user: { uid: 0, gid: 0 },
    args,
    env: ['PATH=/bin'],
    cwd: '/',
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    noNewPrivileges: true,
  },
  root: { path: 'rootfs' },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755'] },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['newinstance', 'ptmxmode=0666'] },
    { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  ],
  linux: {
    cgroupsPath,
    resources: { devices: [{ allow: false, access: 'rwm' }], memory: { limit: 256 << 20 } },
    namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })),
    maskedPaths: ['/proc/kcore', '/proc/keys', '/sys/firmware'],
    readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
  },
});
