/**
 * Measures Bulkhead beside its peers, everything interleaved in one run on one machine:
 *
 *   make bench [BENCH='--rounds 30 --only run,exec']
 *
 * Prints minimum, median and ratio; writes bench/results/latest.json and latest.svg. The vm wall has a break-down of its
 * own, vm.svg, and needs a guest (`make guest`).
 */
import { cpus, release } from 'node:os';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { cgroupMounts } from '../test/e2e/lib/leaks.ts';
import { guestCache, prefix, root } from '../test/e2e/lib/paths.ts';
import { chart, table, type CaseResult } from './chart.ts';
import { CliBench, type Cli } from './cli_cases.ts';
import * as ctr from './ctr_cases.ts';
import { interleave, summarise, type Series } from './measure.ts';
import { benchVm, vmChart, vmTables, type VmReport } from './vm.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '30' },
    only: { type: 'string', default: '' },
    out: { type: 'string', default: join(root, 'bench/results') },
  },
});
const rounds = Number(values.rounds);
const asked = values.only.split(',').filter((name) => name !== '');
// It costs every Node 45 ms; shims and engines inherit our environment.
delete process.env.NODE_EXTRA_CA_CERTS;

const results: CaseResult[] = [];
let vm: VmReport | undefined;
const wanted = (name: string): boolean => asked.length === 0 || asked.includes(name);

/** Takes one case into the results and prints it at once, so that a long run shows where it is. */
const record = (info: Omit<CaseResult, 'summaries' | 'reference'>, series: Series[]): void => {
  const result = { ...info, reference: 'runc', summaries: summarise(series, 'runc') };
  results.push(result);
  console.log(`\n${table([result])}`);
};

const containerd = await PrivateContainerd.start({ version: '1.6' });
const all = ctr.contenders;
const shims = all.filter(({ name }) => name !== 'runc+crun');

try {
  if (wanted('run')) {
    const series = await interleave(
      rounds,
      all.map((of) => ({ name: of.name, sample: () => ctr.runTrue(containerd, of) })),
    );
    record({ name: 'run', title: 'ctr run --rm … true', unit: 'ms' }, series);
  }
  if (wanted('exec')) {
    const hosts = await Promise.all(all.map((of) => ctr.idle(containerd, of)));
    const series = await interleave(
      rounds,
      all.map((of, n) => ({ name: of.name, sample: () => ctr.execTrue(containerd, hosts[n] ?? '') })),
    );
    record({ name: 'exec', title: 'ctr task exec … true', unit: 'ms' }, series);
    await Promise.all(hosts.map((id) => containerd.remove(id)));
  }
  if (wanted('start')) {
    const binaries: Record<string, string> = {
      bulkhead: join(prefix, 'bin/containerd-shim-bulkhead-v2'),
      runc: '/usr/bin/containerd-shim-runc-v2',
    };
    // One container keeps the engine warm, as on any node.
    const [warm] = [await ctr.idle(containerd, all[0]!)];
    const series = await interleave(
      rounds,
      shims.map((of) => ({
        name: of.name,
        sample: () => ctr.startAction(containerd, of, binaries[of.name] ?? ''),
      })),
    );
    record({ name: 'start', title: "the shim's start action, warm", unit: 'ms' }, series);
    await containerd.remove(warm);
  }
  if (wanted('parallel')) {
    const series = await interleave(
      Math.max(3, Math.round(rounds / 6)),
      all.map((of) => ({ name: of.name, sample: () => ctr.runMany(containerd, of, 20) })),
    );
    record({ name: 'parallel', title: '20 × ctr run --rm … true at once', unit: 'ms' }, series);
  }
  if (wanted('stdout')) {
    const series = await interleave(
      Math.max(3, Math.round(rounds / 6)),
      shims.map((of) => ({ name: of.name, sample: () => ctr.stdoutRate(containerd, of, 1024) })),
    );
    record(
      { name: 'stdout', title: 'stdout of a container through ctr', unit: 'MB/s', larger: true },
      series,
    );
  }
  for (const count of wanted('memory') ? [1, 10, 50] : []) {
    const series: Series[] = [];
    for (const of of shims) {
      series.push({ contender: of.name, samples: [await ctr.memory(containerd, of, count)] });
    }
    const title = `memory of ${count} idle container${count === 1 ? '' : 's'}`;
    record({ name: `memory-${count}`, title, unit: 'MB PSS, runtime processes' }, series);
  }
  if (wanted('cli')) await cliCases();
  if (wanted('vm')) vm = await vmCase();
} finally {
  await containerd.stop();
}

async function vmCase(): Promise<VmReport | undefined> {
  if (!existsSync(join(guestCache, 'guest.json'))) {
    console.log(`\nvm: no guest in ${guestCache}: make guest`);
    return undefined;
  }
  const report = await benchVm(Math.max(3, Math.round(rounds / 2)), [1, 10]);
  console.log(`\n${vmTables(report)}`);
  return report;
}

async function cliCases(): Promise<void> {
  const bench = await CliBench.make(containerd.dir, containerd.env);
  const clis: Cli[] = [
    { name: 'bulkhead', file: join(prefix, 'bin/bulkhead') },
    { name: 'runc', file: '/usr/sbin/runc' },
    { name: 'crun', file: '/usr/bin/crun' },
  ];
  const series = await interleave(
    rounds,
    clis.map((cli) => ({ name: cli.name, sample: () => bench.run(cli) })),
  );
  record({ name: 'cli-run', title: 'command line: run', unit: 'ms' }, series);
  const steps = ['create', 'start', 'exec', 'delete'] as const;
  const samples = new Map(
    steps.map((step) => [step, clis.map(({ name }) => ({ contender: name, samples: [] as number[] }))]),
  );
  await interleave(
    Math.max(3, Math.round(rounds / 2)),
    clis.map((cli, n) => ({
      name: cli.name,
      sample: async (round: number) => {
        const times = await bench.steps(cli);
        if (round > 0) for (const step of steps) samples.get(step)?.[n]?.samples.push(times[step]);
        return 0;
      },
    })),
  );
  for (const step of steps) {
    record({ name: `cli-${step}`, title: `command line: ${step}`, unit: 'ms' }, samples.get(step) ?? []);
  }
}

const machine = {
  cgroups: cgroupMounts().some((mount) => mount === '/sys/fs/cgroup')
    ? 'v2'
    : `v1 ${cgroupMounts().length} hierarchies`,
  processor: ctr.processor(),
  cores: cpus().length,
  kernel: release(),
  node: process.version,
  containerd: await ctr.versionOf('/usr/bin/containerd', ['--version']),
  runc: await ctr.versionOf('/usr/sbin/runc', ['--version']),
  crun: await ctr.versionOf('/usr/bin/crun', ['--version']),
};
mkdirSync(values.out, { recursive: true });
const report = { when: new Date().toISOString(), rounds, machine, results, vm };
writeFileSync(join(values.out, 'latest.json'), `${JSON.stringify(report, null, 2)}\n`);
writeFileSync(join(values.out, 'latest.svg'), chart('Bulkhead beside its peers', results));
if (vm !== undefined) writeFileSync(join(values.out, 'vm.svg'), vmChart(vm));
console.log(`\nwritten: ${join(values.out, 'latest.json')} and latest.svg`);
