import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { eventually, run } from '../test/e2e/lib/exec.ts';
import { testImage } from '../test/e2e/lib/image.ts';
import { pidsWhere, pssOf } from './measure.ts';

/** A runtime as `ctr run` is told of it. */
export interface Contender {
  name: string;
  runtime: string;
  flags: readonly string[];
  /** File name of the shim, and what else of its runtime stays in memory. */
  shim: string;
  helpers: readonly string[];
}

export const contenders: readonly Contender[] = [
  {
    name: 'bulkhead',
    runtime: 'io.containerd.bulkhead.v2',
    flags: [],
    shim: 'containerd-shim-bulkhead-v2',
    helpers: ['engine.cjs'],
  },
  { name: 'runc', runtime: 'io.containerd.runc.v2', flags: [], shim: 'containerd-shim-runc-v2', helpers: [] },
  {
    name: 'runc+crun',
    runtime: 'io.containerd.runc.v2',
    flags: ['--runc-binary', '/usr/bin/crun'],
    shim: 'containerd-shim-runc-v2',
    helpers: [],
  },
];

let serial = 0;
/** A container name that was not used before. */
export const fresh = (what: string): string => `${what}-${(serial += 1)}`;

const ok = (what: string, result: { code: number | null; stderr: string; ms: number }): number => {
  if (result.code !== 0) throw new Error(`${what}: exit ${result.code}: ${result.stderr}`);
  return result.ms;
};

/** `ctr run --rm … true`, from the start of ctr to its end. */
export const runTrue = async (containerd: PrivateContainerd, of: Contender): Promise<number> =>
  ok(
    'ctr run',
    await containerd.run(fresh('run'), ['true'], { runtime: of.runtime, flags: ['--rm', ...of.flags] }),
  );

/** As many of these at once; the time until the last has ended. */
export const runMany = async (
  containerd: PrivateContainerd,
  of: Contender,
  count: number,
): Promise<number> => {
  const started = performance.now();
  await Promise.all(Array.from({ length: count }, () => runTrue(containerd, of)));
  return performance.now() - started;
};

/** A container that sleeps; resolves to its name. */
export const idle = async (containerd: PrivateContainerd, of: Contender): Promise<string> => {
  const id = fresh('idle');
  const flags = ['-d', '--null-io', ...of.flags];
  ok('ctr run -d', await containerd.run(id, ['sleep', '100000'], { runtime: of.runtime, flags }));
  return id;
};

/** `ctr task exec … true`. */
export const execTrue = async (containerd: PrivateContainerd, id: string): Promise<number> =>
  ok('ctr task exec', await containerd.exec(id, fresh('exec'), ['true']));

/** MB/s that a container can write to a stdout which ctr copies to /dev/null; by the writer's own clock (10 ms steps). */
export const stdoutRate = async (
  containerd: PrivateContainerd,
  of: Contender,
  megabytes: number,
): Promise<number> => {
  const dd = `dd if=/dev/zero bs=65536 count=${megabytes * 16} 2>/dev/null`;
  const script = `read a x < /proc/uptime; ${dd}; read b x < /proc/uptime; echo $a $b >&2`;
  const flags = ['--rm', ...of.flags];
  const words = ['run', '--runtime', of.runtime, ...flags, testImage, fresh('out'), 'sh', '-c', script];
  const { file, args, env } = containerd.command(words);
  const text = await new Promise<string>((resolve, reject) => {
    const child = spawn(file, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.on('error', reject);
    child.on('close', () => resolve(stderr));
  });
  const [from, to] = text.trim().split(' ').map(Number);
  const seconds = (to ?? Number.NaN) - (from ?? Number.NaN);
  if (!(seconds > 0)) throw new Error(`no times in ${JSON.stringify(text)}`);
  return megabytes / seconds;
};

/**
 * Summed proportional set size, in MB, of all the processes a runtime keeps for `count` idle containers: shims and
 * engine, not the containers themselves.
 */
export const memory = async (
  containerd: PrivateContainerd,
  of: Contender,
  count: number,
): Promise<number> => {
  const ids: string[] = [];
  for (let n = 0; n < count; n += 5) {
    const some = Array.from({ length: Math.min(5, count - n) }, () => idle(containerd, of));
    ids.push(...(await Promise.all(some)));
  }
  // What starting has touched is part of the price; what is only being torn down is not.
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const words = [of.shim, ...of.helpers];
  const pids = pidsWhere((command) =>
    words.some((word) => command.split(' ').slice(0, 3).join(' ').includes(word)),
  );
  const total = pids.reduce((sum, pid) => sum + pssOf(pid), 0) / 1024;
  for (let n = 0; n < ids.length; n += 5) {
    await Promise.all(ids.slice(n, n + 5).map((id) => containerd.remove(id)));
  }
  await eventually(
    'the shims to end',
    () => pidsWhere((command) => command.startsWith(of.shim)).length === 0,
  );
  return total;
};

/** The shim's `start` action alone, with whatever serves many containers already running. */
export const startAction = async (
  containerd: PrivateContainerd,
  of: Contender,
  binary: string,
): Promise<number> => {
  const id = fresh('start');
  const bundle = join(containerd.dir, 'bundles', id);
  mkdirSync(bundle, { recursive: true });
  writeFileSync(join(bundle, 'config.json'), JSON.stringify({ ociVersion: '1.0.2', annotations: {} }));
  const words = ['-namespace', containerd.namespace, '-address', containerd.address];
  const publish = ['-publish-binary', '/usr/bin/containerd', '-id', id, 'start'];
  const env = { ...containerd.env, TTRPC_ADDRESS: `${containerd.address}.ttrpc` };
  const before = new Set(pidsWhere((command) => command.includes(of.shim)));
  const result = await run(binary, [...words, ...publish], { cwd: bundle, env });
  const ms = ok(`${of.shim} start`, result);
  // No task was made, so nothing else will end it.
  for (const pid of pidsWhere((command, pid) => command.includes(of.shim) && !before.has(pid)))
    process.kill(pid, 'SIGKILL');
  rmSync(result.stdout.replace(/^unix:\/\//, '').trim(), { force: true });
  rmSync(bundle, { recursive: true, force: true });
  return ms;
};

/** First line of `file`'s version output. */
export const versionOf = async (file: string, args: readonly string[]): Promise<string> =>
  (await run(file, args)).stdout.split('\n')[0] ?? '';

/** Model name of the first processor. */
export const processor = (): string =>
  /model name\s*: (.*)/.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown processor';
