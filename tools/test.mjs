// Runs the test suites and adds their own reports up: node tools/test.mjs [SUITE…]
//
//   lint         types, lint rules, formatting (one result each)
//   native       the C++ tests, plain and under AddressSanitizer and UBSan
//   unit         vitest without containerd, on the machine's Node and on Node 24
//   faults       fault injection and hostile bundles: nothing is left behind
//   cli          the command line: first on runc, which proves the tests, then ours on both Nodes
//   vm           virtual machines without containerd: networks, disks, persistent memory
//   soak         mixed load behind the sentry wall for BULKHEAD_SOAK_MINUTES (3): nothing grows
//   e2e          real containerds; runc's shim first, which proves the tests, then ours on both Nodes
//   lab          in an emulated machine: cgroup v2 alone, KVM, devices; LAB='NAME…' for some of its sittings
//
// Every suite writes a report into reports/; the closing line counts what the reports say. When tests of at most three
// files of a suite failed, those files are run once more; what passes then is named in the closing lines as unsteady
// (docs/decisions/020). --once: nothing is run twice.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const reports = join(root, 'reports');
const node24 = join(root, 'build/peers/node24/node_modules/node/bin/node');
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const inPrivate = join(root, 'tools/private.sh');

const { values, positionals: asked } = parseArgs({
  allowPositionals: true,
  options: { once: { type: 'boolean', default: false } },
});

/** Runs a command with its output on ours and in reports/NAME.log; resolves to its exit status and text. */
const run = (name, command, args, env = {}) =>
  new Promise((resolve) => {
    const started = performance.now();
    console.log(`\n== ${name}: ${[command, ...args].map((word) => word.replace(`${root}/`, '')).join(' ')}`);
    const clean = { ...process.env, ...env };
    delete clean.NODE_EXTRA_CA_CERTS;
    const child = spawn(command, args, { cwd: root, env: clean, stdio: ['ignore', 'pipe', 'pipe'] });
    const chunks = [];
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        chunks.push(chunk);
        process.stdout.write(chunk);
      });
    }
    child.on('error', (error) => resolve({ code: 127, text: String(error) }));
    child.on('close', (code) => {
      const text = Buffer.concat(chunks).toString();
      writeFileSync(join(reports, `${name}.log`), text);
      console.log(`== ${name}: exit ${code} after ${((performance.now() - started) / 1000).toFixed(1)} s`);
      resolve({ code: code ?? 1, text });
    });
  });

const none = { passed: 0, failed: 0, skipped: 0, failures: [], unsteady: [] };

/** Files of a suite whose failures may be chance. When more fail, it is none, and to run them again says nothing. */
const AGAIN_FILES = 3;

/** A step that has no report of its own counts as one test. */
const single = async (name, command, args) => {
  const { code } = await run(name, command, args);
  return code === 0 ? { ...none, passed: 1 } : { ...none, failed: 1, failures: [name] };
};

const readReport = (file) => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined);

/** Names of what failed in one file of a vitest report: its tests, or the file itself when it broke outside of them. */
const failuresOf = ({ name, status, message, assertionResults }) => {
  const tests = assertionResults.filter((test) => test.status === 'failed').map((test) => test.fullName);
  return tests.length > 0 || status !== 'failed' ? tests : [`${name}: ${message.split('\n')[0]}`];
};

/** Counts of a vitest JSON report. A run that broke before or between tests counts as a failure too. */
const vitestCounts = (name, report, code) => {
  if (report === undefined) return { ...none, failed: 1, failures: [`${name}: no report`] };
  const failures = report.testResults.flatMap(failuresOf).map((test) => `${name}: ${test}`);
  if (code !== 0 && failures.length === 0) failures.push(`${name}: vitest exited with ${code}`);
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  const passed = tests.filter((test) => test.status === 'passed').length;
  const skipped = tests.filter((test) => !['passed', 'failed'].includes(test.status)).length;
  return { ...none, passed, failed: failures.length, skipped, failures };
};

/** Names of what failed in one report and passed in a second, of a file of both. */
const unsteadyIn = (name, first, second) => {
  const again = new Map(second.testResults.map((file) => [file.name, file]));
  return first.testResults.flatMap((file) => {
    const { status, assertionResults: tests = [] } = again.get(file.name) ?? {};
    const passed = new Set(tests.filter((test) => test.status === 'passed').map((test) => test.fullName));
    const passes = (failure) => status === 'passed' || passed.has(failure);
    return failuresOf(file)
      .filter(passes)
      .map((failure) => `${name}: ${failure}`);
  });
};

const runVitest = async (name, node, args, env, wrapper = []) => {
  const once = async (label, more) => {
    const file = join(reports, `${label}.json`);
    const [command, ...words] = [...wrapper, node, vitest, 'run', ...args, ...more];
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
    const { code } = await run(label, command, [...words, ...reporters], env);
    return { code, report: readReport(file) };
  };
  const first = await once(name, []);
  const broken = first.report?.testResults.filter((file) => failuresOf(file).length > 0) ?? [];
  if (values.once || broken.length === 0 || broken.length > AGAIN_FILES)
    return vitestCounts(name, first.report, first.code);
  const files = broken.map((file) => relative(root, file.name));
  const second = await once(`${name}-again`, files);
  if (second.report === undefined) return vitestCounts(name, first.report, first.code);
  const again = new Map(second.report.testResults.map((file) => [file.name, file]));
  const testResults = first.report.testResults.map((file) => again.get(file.name) ?? file);
  const unsteady = unsteadyIn(name, first.report, second.report);
  return { ...vitestCounts(name, { testResults }, second.code), unsteady };
};

/** The C++ tests close with a line "N passed, N failed" per program. */
const native = async (name, target) => {
  const { code, text } = await run(name, 'make', ['--no-print-directory', '-j2', '-C', 'native', target]);
  const lines = [...text.matchAll(/^(?:\S+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?/gm)];
  const sum = (index) => lines.reduce((total, line) => total + Number(line[index] ?? 0), 0);
  const counts = { ...none, passed: sum(1), failed: sum(2), skipped: sum(3), failures: [] };
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  if (lines.length === 0) counts.failed = Math.max(counts.failed, 1);
  if (counts.failed > 0) counts.failures.push(`${name}: see reports/${name}.log`);
  return counts;
};

/** Each of the lab's sittings has a report of its own; what kept one from making it counts as a failure. */
const lab = async () => {
  const asked = [...(values.once ? ['--once'] : []), ...(process.env.LAB ?? '').split(' ').filter(Boolean)];
  const { code } = await run('lab', process.execPath, ['tools/run.mjs', 'tools/lab/main.ts', ...asked]);
  const sittings = readReport(join(reports, 'lab.json'));
  if (sittings === undefined) return { ...none, failed: 1, failures: ['lab: no report'] };
  const total = { ...none };
  for (const { name, passed, failure, broken = [] } of sittings) {
    for (const reason of broken) console.log(`lab-${name}: a machine before it broke down: ${reason}`);
    const report = readReport(join(reports, `lab-${name}.json`));
    const first = readReport(join(reports, `lab-${name}-first.json`));
    const counts = vitestCounts(`lab-${name}`, report, passed ? 0 : 1);
    if (failure !== undefined) counts.failures.push(`lab-${name}: ${failure}`);
    for (const key of ['passed', 'skipped']) total[key] += counts[key];
    total.failures = [...total.failures, ...counts.failures];
    if (first !== undefined && report !== undefined)
      total.unsteady = [...total.unsteady, ...unsteadyIn(`lab-${name}`, first, report)];
  }
  if (code !== 0 && total.failures.length === 0) total.failures = [`lab: exit ${code}`];
  return { ...total, failed: total.failures.length };
};

const e2e = (name, node, env, files = []) =>
  runVitest(name, node, ['--config', 'test/e2e/vitest.config.ts', ...files], env, [inPrivate]);

const cli = (name, node, env, args = []) =>
  runVitest(name, node, ['--config', 'test/cli/vitest.config.ts', ...args], env, [inPrivate]);

const nodes = [['node', process.execPath], ...(existsSync(node24) ? [['node24', node24]] : [])];

const suites = {
  lint: [
    () => single('types', 'node_modules/.bin/tsc', ['--noEmit', '-p', 'tsconfig.json']),
    () => single('eslint', 'node_modules/.bin/eslint', ['--max-warnings', '0', '.']),
    () => single('prettier', 'node_modules/.bin/prettier', ['--check', '--log-level', 'warn', '.']),
    () => single('clang-format', 'make', ['--no-print-directory', '-C', 'native', 'lint']),
  ],
  native: [() => native('native', 'test'), () => native('native-asan', 'asan')],
  unit: nodes.map(
    ([name, node]) =>
      () =>
        runVitest(`unit-${name}`, node, ['--config', 'vitest.config.ts']),
  ),
  faults: [
    () =>
      runVitest('faults', process.execPath, ['--config', 'test/faults/vitest.config.ts'], {}, [inPrivate]),
  ],
  cli: [
    // runc knows no CDI; of several `start` at once, more than one may win.
    () =>
      cli('cli-runc', process.execPath, { BULKHEAD_TEST_CLI: 'runc' }, [
        '--exclude=**/devices.cli.test.ts',
        '--exclude=**/machines.cli.test.ts',
        '--exclude=**/sentry.cli.test.ts',
        '--retry=2',
      ]),
    () => cli('cli-node', process.execPath, {}),
    // Behind the sentry wall, which passes no devices.
    () =>
      cli('cli-sentry', process.execPath, { BULKHEAD_TEST_WALL: 'sentry' }, [
        '--exclude=**/devices.cli.test.ts',
        '--exclude=**/sentry.cli.test.ts',
      ]),
    () => cli('cli-node24', process.execPath, { BULKHEAD_TEST_PREFIX: join(root, 'build/prefix-node24') }),
  ],
  vm: [() => runVitest('vm', process.execPath, ['--config', 'test/vm/vitest.config.ts'], {}, [inPrivate])],
  lab: [lab],
  soak: [
    () =>
      single('soak', inPrivate, [
        process.execPath,
        'tools/run.mjs',
        'tools/soak.ts',
        '--minutes',
        process.env.BULKHEAD_SOAK_MINUTES ?? '3',
        '--report',
        join(reports, 'soak.json'),
      ]),
  ],
  e2e: [
    // runc's shim has no engine and knows no CDI; containerd 2's may end before it has sent TaskDelete or a terminal's last line.
    () =>
      e2e('e2e-runc', process.execPath, { BULKHEAD_TEST_RUNTIME: 'io.containerd.runc.v2' }, [
        '--exclude=**/engine.e2e.test.ts',
        '--exclude=**/shim.e2e.test.ts',
        '--exclude=**/sentry/**',
        '--exclude=**/vm/**',
        '--exclude=**/*cdi.e2e.test.ts',
        '--retry=2',
      ]),
    // The same suite behind the other walls; what they alone promise is in test/e2e/sentry and test/e2e/vm, run below.
    ...['sentry', 'vm'].map(
      (wall) => () =>
        e2e(`e2e-${wall}`, process.execPath, { BULKHEAD_TEST_RUNTIME: `io.containerd.bulkhead-${wall}.v2` }, [
          '--exclude=**/sentry/**',
          '--exclude=**/vm/**',
          '--exclude=**/*cdi.e2e.test.ts',
        ]),
    ),
    () => e2e('e2e-node', process.execPath, {}),
    () =>
      e2e('e2e-node24', process.execPath, { BULKHEAD_TEST_PREFIX: join(root, 'build/prefix-node24') }, [
        '--exclude=**/vm/**',
      ]),
  ],
};

const unknown = asked.filter((name) => !(name in suites));
if (unknown.length > 0) {
  console.error(`test: ${unknown.join(', ')}: no such suite; there are ${Object.keys(suites).join(', ')}`);
  process.exit(2);
}
rmSync(reports, { recursive: true, force: true });
mkdirSync(reports, { recursive: true });
const total = { ...none, failures: [], unsteady: [] };
for (const name of asked.length > 0 ? asked : Object.keys(suites)) {
  for (const step of suites[name]) {
    const counts = await step();
    for (const key of ['passed', 'failed', 'skipped']) total[key] += counts[key];
    for (const key of ['failures', 'unsteady']) total[key].push(...counts[key]);
  }
}
writeFileSync(join(reports, 'summary.json'), `${JSON.stringify(total, null, 2)}\n`);
for (const [title, names] of [
  ['unsteady, passed only when run again', total.unsteady],
  ['failed', total.failures],
]) {
  if (names.length > 0) console.log(`\n${title}:\n${names.map((text) => `  ${text}`).join('\n')}`);
}
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
