/**
 * `make demo`: a private containerd runs containers through Bulkhead and, for comparison, through runc's shim. Prints
 * every command it runs and what came out of it, and leaves nothing behind.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { format } from '../bench/chart.ts';
import { contenders, execTrue, idle, runTrue } from '../bench/ctr_cases.ts';
import { interleave, summarise } from '../bench/measure.ts';
import { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { CriClient, containerConfig, podConfig } from '../test/e2e/lib/cri.ts';
import { eventually } from '../test/e2e/lib/exec.ts';
import { testImage } from '../test/e2e/lib/image.ts';

const runtime = 'io.containerd.bulkhead.v2';
const rounds = 10;

const say = (text: string): void => console.log(`\n\u001b[1m${text}\u001b[0m`);

/** Prints a ctr command as a person would type it, runs it and prints its output. */
const show = async (words: string[], expected = 0): Promise<string> => {
  console.log(`$ ctr ${words.map((word) => (/\s/.test(word) ? `'${word}'` : word)).join(' ')}`);
  const result = await containerd.ctr(words);
  process.stdout.write(result.stdout + result.stderr);
  const signalled = result.stderr.includes('exit with non-zero');
  if (result.code !== expected && !signalled)
    throw new Error(`ctr exited with ${result.code}, not ${expected}`);
  console.log(`  (exit ${result.code}, ${result.ms.toFixed(0)} ms)`);
  return result.stdout;
};

const containers = async (): Promise<void> => {
  say('A container, attached');
  await show([
    'run',
    '--rm',
    '--runtime',
    runtime,
    testImage,
    'hello',
    'sh',
    '-c',
    'echo hello from $(hostname), process $$',
  ]);
  say('Its exit code comes through');
  await show(['run', '--rm', '--runtime', runtime, testImage, 'seven', 'sh', '-c', 'exit 7'], 7);
  say('A detached one, entered, paused, measured, killed');
  await show([
    'run',
    '-d',
    '--memory-limit',
    '67108864',
    '--runtime',
    runtime,
    testImage,
    'web',
    'sleep',
    '1000',
  ]);
  await show(['task', 'exec', '--exec-id', 'e1', 'web', 'ps']);
  await show(['task', 'pause', 'web']);
  await show(['task', 'ls']);
  await show(['task', 'resume', 'web']);
  await show(['task', 'metrics', 'web']);
  await containerd.remove('web');
};

const pod = async (): Promise<void> => {
  say('A Kubernetes pod of two containers through CRI, with Debian’s CNI plugins');
  const logDirectory = join(containerd.dir, 'logs');
  mkdirSync(logDirectory);
  const cri = new CriClient(containerd.address);
  await eventually('CRI to be ready', async () =>
    (await cri.status({})).status?.conditions?.every(({ status }) => status),
  );
  const config = podConfig('demo', { logDirectory, linux: { cgroupParent: `/${containerd.namespace}` } });
  const { podSandboxId } = await cri.runPodSandbox({ config, runtimeHandler: 'test' });
  for (const name of ['front', 'back']) {
    const started = performance.now();
    const container = containerConfig(name, testImage, ['sleep', '1000']);
    const { containerId } = await cri.createContainer({
      podSandboxId,
      config: container,
      sandboxConfig: config,
    });
    await cri.startContainer({ containerId });
    const { stdout } = await cri.execText(containerId, ['ip', '-4', '-o', 'addr', 'show', 'eth0']);
    console.log(`${name}: ${stdout.trim()} (${(performance.now() - started).toFixed(0)} ms)`);
  }
  await cri.removePod(podSandboxId);
  cri.close();
};

const comparison = async (): Promise<void> => {
  say(`Beside runc’s shim, ${rounds} interleaved rounds each`);
  const two = contenders.filter(({ name }) => name !== 'runc+crun');
  const runs = await interleave(
    rounds,
    two.map((of) => ({ name: of.name, sample: () => runTrue(containerd, of) })),
  );
  const hosts = await Promise.all(two.map((of) => idle(containerd, of)));
  const execs = await interleave(
    rounds,
    two.map((of, n) => ({ name: of.name, sample: () => execTrue(containerd, hosts[n] ?? '') })),
  );
  await Promise.all(hosts.map((id) => containerd.remove(id)));
  console.log(`${''.padEnd(26)}${'min ms'.padStart(10)}${'median ms'.padStart(11)}${'ratio'.padStart(8)}`);
  for (const [title, series] of [
    ['ctr run --rm … true', runs],
    ['ctr task exec … true', execs],
  ] as const) {
    for (const { contender, min, median, ratio } of summarise(series, 'runc')) {
      const cells = [format(min).padStart(10), format(median).padStart(11), ratio.toFixed(2).padStart(8)];
      console.log(`${`${title}  ${contender}`.padEnd(32).slice(0, 32)}${cells.join('').slice(6)}`);
    }
  }
};

const containerd = await PrivateContainerd.start({ version: '1.6', cri: { runtime } });
try {
  await containers();
  await pod();
  await comparison();
  const left = await containerd.leaks();
  say(left.length === 0 ? 'Nothing is left behind.' : `Left behind: ${left.join(', ')}`);
  if (left.length > 0) process.exitCode = 1;
} finally {
  await containerd.stop();
}
