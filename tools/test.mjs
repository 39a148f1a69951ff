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
// Every suite writes a report into reports/; the closing line counts what the reports say.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const reports = join(root, 'reports');
const node24 = join(root, 'build/peers/node24/node_modules/node/bin/node');
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const inPrivate = join(root, 'tools/private.sh');

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

const none = { passed: 0, failed: 0, skipped: 0, failures: [] };

/** A step that has no report of its own counts as one test. */
const single = async (name, command, args) => {
  const { code } = await run(name, command, args);
  return code === 0 ? { ...none, passed: 1 } : { ...none, failed: 1, failures: [name] };
};

/** Counts of a vitest JSON report. A run that broke before or between tests counts as a failure too. */
const vitestCounts = (name, file, code) => {
  if (!existsSync(file)) return { ...none, failed: 1, failures: [`${name}: no report`] };
  const report = JSON.parse(readFileSync(file, 'utf8'));
  const broken = report.testResults.filter(
    (suite) => suite.status === 'failed' && suite.assertionResults.length === 0,
  );
  const failures = report.testResults.flatMap((suite) =>
    suite.assertionResults
      .filter((test) => test.status === 'failed')
      .map((test) => `${name}: ${test.fullName}`),
  );
  failures.push(...broken.map((suite) => `${name}: ${suite.name}: ${suite.message.split('\n')[0]}`));
  if (code !== 0 && failures.length === 0) failures.push(`${name}: vitest exited with ${code}`);
  const skipped = report.numPendingTests + report.numTodoTests;
  return { passed: report.numPassedTests, failed: failures.length, skipped, failures };
};

const runVitest = async (name, node, args, env, wrapper = []) => {
  const file = join(reports, `${name}.json`);
  const [command, ...words] = [...wrapper, node, vitest, 'run', ...args];
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const { code } = await run(name, command, [...words, ...reporters], env);
  return vitestCounts(name, file, code);
};

/** The C++ tests close with a line "N passed, N failed" per program. */
const native = async (name, target) => {
  const { code, text } = await run(name, 'make', ['--no-print-directory', '-j2', '-C', 'native', target]);
  const lines = [...text.matchAll(/^(?:\S+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?/gm)];
  const sum = (index) => lines.reduce((total, line) => total + Number(line[index] ?? 0), 0);
  const counts = { passed: sum(1), failed: sum(2), skipped: sum(3), failures: [] };
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  if (lines.length === 0) counts.failed = Math.max(counts.failed, 1);
  if (counts.failed > 0) counts.failures.push(`${name}: see reports/${name}.log`);
  return counts;
};

/** Each of the lab's sittings has a report of its own; what kept one from making it counts as a failure. */
const lab = async () => {
  const list = join(reports, 'lab.json');
  const asked = (process.env.LAB ?? '').split(' ').filter(Boolean);
  const { code } = await run('lab', process.execPath, ['tools/run.mjs', 'tools/lab/main.ts', ...asked]);
  if (!existsSync(list)) return { ...none, failed: 1, failures: ['lab: no report'] };
  const sittings = JSON.parse(readFileSync(list, 'utf8'));
  const total = { ...none };
  for (const { name, passed, failure, broken = [] } of sittings) {
    for (const reason of broken) console.log(`lab-${name}: a machine before it broke down: ${reason}`);
    const counts = vitestCounts(`lab-${name}`, join(reports, `lab-${name}.json`), passed ? 0 : 1);
    if (failure !== undefined) counts.failures.push(`lab-${name}: ${failure}`);
    for (const key of ['passed', 'skipped']) total[key] += counts[key];
    total.failures = [...total.failures, ...counts.failures];
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

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(name in suites));
if (unknown.length > 0) {
  console.error(`test: ${unknown.join(', ')}: no such suite; there are ${Object.keys(suites).join(', ')}`);
  process.exit(2);
}
rmSync(reports, { recursive: true, force: true });
mkdirSync(reports, { recursive: true });
const total = { passed: 0, failed: 0, skipped: 0, failures: [] };
for (const name of asked.length > 0 ? asked : Object.keys(suites)) {
  for (const step of suites[name]) {
    const counts = await step();
    for (const key of ['passed', 'failed', 'skipped']) total[key] += counts[key];
    total.failures.push(...counts.failures);
  }
}
writeFileSync(join(reports, 'summary.json'), `${JSON.stringify(total, null, 2)}\n`);
if (total.failures.length > 0)
  console.log(`\nfailed:\n${total.failures.map((text) => `  ${text}`).join('\n')}`);
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
