/**
 * The lab: node tools/run.mjs tools/lab/main.ts [--once] [--script FILE] [SITTING…]
 *
 * Boots an emulated machine for each sitting and runs the project's own tests in it, on the host's tree. Each writes a
 * report into reports/lab-NAME.json as the other suites do; reports/lab.json lists what was run. A sitting in which at
 * most three tests failed is held once more in a fresh machine (docs/decisions/020), unless --once is given; its first
 * report is then reports/lab-NAME-first.json. The exit status is 1 when a sitting failed, 2 when there is no such
 * sitting. --script runs a script of yours in a sitting's machine instead of its tests: for looking around.
 */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { labAssets, ROOT, withGuestKernel } from './assets.ts';
import { boot, type BootResult } from './boot.ts';
import { labInitrd } from './initrd.ts';
import { job } from './job.ts';
import { commandLine } from './machine.ts';
import { sittings, type Sitting } from './sittings.ts';

const BUILD = join(ROOT, 'build/lab');
const REPORTS = join(ROOT, 'reports');
/** A file of the boot's directory: whoever makes it in the machine has the power cut. */
const CUT = 'cut';
/** It takes five seconds to come up, on a busy host twenty. */
const READY_MS = 180_000;
/** Of its time, which a busy host lets go on by jerks. */
const SILENT_MS = 180_000;
const BOOTS = 3;
/** Of a sitting, when the emulated machine itself breaks down in the midst of it. */
const SITTINGS = 4;
/** Tests of a sitting whose failures may be chance; with more of them it is not held again. */
const AGAIN_TESTS = 3;

interface Outcome {
  name: string;
  /** Whether its tests passed. */
  passed: boolean;
  /** Why there is no report to look at. */
  failure?: string;
  /** Why the machine of an earlier try broke down. */
  broken?: string[];
  seconds: number;
}

/** Directory of the sitting that is under way; not left behind when somebody ends us. */
let current: string | undefined;
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => {
    if (current !== undefined) rmSync(current, { recursive: true, force: true });
    process.exit(code);
  });
}

/** A guest for the machine's own virtual machines, of the kernel that the machine itself runs. Cached by content. */
function withStockGuest(sitting: Sitting): Sitting {
  if (sitting.stockGuest !== true) return sitting;
  const { kernel, modules = '', release } = labAssets();
  const words = ['--out', join(BUILD, 'guest'), '--kernel', kernel];
  const built = execFileSync(
    join(ROOT, 'build/prefix/bin/bulkhead'),
    ['guest', 'build', ...words, '--modules', join(modules, 'lib/modules', release)],
    { encoding: 'utf8' },
  );
  return { ...sitting, env: { ...sitting.env, BULKHEAD_LAB_GUEST: built } };
}

/**
 * Sits again when the emulated machine broke down: a kernel that panics or a processor that no longer hears interrupts is
 * nothing that the tests, which then have no report, say of the product. When it does each time it is a failure.
 */
async function sitThrough(sitting: Sitting, script: string | undefined): Promise<Outcome> {
  const broken: string[] = [];
  for (;;) {
    const { machineBroke, ...outcome } = await sit(sitting, script);
    const whole = broken.length === 0 ? outcome : { ...outcome, broken };
    if (!machineBroke || broken.length + 1 === SITTINGS) return whole;
    broken.push(outcome.failure ?? 'no reason');
    console.log(`== lab ${sitting.name}: its machine broke down; the whole sitting once more`);
  }
}

/** Holds a sitting, and once more when a few of its tests failed; the first report is kept beside the second. */
async function sitTwice(sitting: Sitting, script: string | undefined): Promise<Outcome> {
  const first = await sitThrough(sitting, script);
  if (first.passed || first.failure !== undefined) return first;
  const report = join(REPORTS, `lab-${sitting.name}.json`);
  const { numFailedTests: failed } = JSON.parse(readFileSync(report, 'utf8')) as { numFailedTests: number };
  if (failed === 0 || failed > AGAIN_TESTS) return first;
  copyFileSync(report, join(REPORTS, `lab-${sitting.name}-first.json`));
  console.log(`== lab ${sitting.name}: ${failed} of its tests failed; the whole sitting once more`);
  return sitThrough(sitting, script);
}

async function sit(
  sitting: Sitting,
  script: string | undefined,
): Promise<Outcome & { machineBroke: boolean }> {
  const { name, images = {}, untilCut } = sitting;
  mkdirSync(BUILD, { recursive: true });
  const dir = (current = mkdtempSync(join(BUILD, `${name}-`)));
  try {
    console.log(`\n== lab ${name}: ${sitting.about}`);
    for (const [image, mib] of Object.entries(images)) {
      writeFileSync(join(dir, image), '');
      truncateSync(join(dir, image), mib << 20);
    }
    if (script !== undefined)
      return outcome(name, dir, await start(sitting, dir, readFileSync(script, 'utf8')));
    if (untilCut !== undefined) {
      const before = await start(sitting, dir, job(sitting, untilCut), CUT);
      rmSync(join(dir, CUT), { force: true });
      if (!before.cut)
        return outcome(name, dir, { ...before, failure: before.failure ?? 'its power was not cut' });
      console.log(`== lab ${name}: the power was cut after ${before.seconds.toFixed(1)} s`);
      rmSync(join(dir, 'report.json'), { force: true });
    }
    return outcome(name, dir, await start(sitting, dir, job(sitting)));
  } finally {
    rmSync(dir, { recursive: true, force: true });
    current = undefined;
  }
}

/** Starts the machine, and again when it has not come so far as to begin its job: that says nothing of what is tested. */
async function start(sitting: Sitting, dir: string, script: string, cutAt?: string): Promise<BootResult> {
  const assets = sitting.guestKernel === true ? withGuestKernel(labAssets()) : labAssets();
  const initrd = labInitrd(BUILD, assets);
  for (let left = BOOTS - 1; ; left--) {
    const result = await boot({
      qemu: assets.qemu,
      args: commandLine({ assets, initrd, tree: ROOT, dir, machine: sitting.machine }),
      dir,
      job: script,
      deadlineMs: sitting.deadlineMinutes * 60_000,
      readyMs: READY_MS,
      silentMs: SILENT_MS,
      onConsole: (text) => process.stdout.write(text),
      cutAt,
    });
    if (result.ready || left === 0) return result;
    console.log(`== lab ${sitting.name}: did not come up: ${result.failure}; once more`);
  }
}

function outcome(
  name: string,
  dir: string,
  { status, failure, broken: machineBroke, seconds, lastWords }: BootResult,
): Outcome & { machineBroke: boolean } {
  const report = join(dir, 'report.json');
  if (existsSync(report)) copyFileSync(report, join(REPORTS, `lab-${name}.json`));
  const reason = failure ?? (existsSync(report) ? undefined : `no report; its job ended with ${status}`);
  console.log(`== lab ${name}: ${reason ?? `exit ${status}`} after ${seconds.toFixed(1)} s`);
  if (reason !== undefined) {
    console.log(`== lab ${name}: the console's last words:\n${lastWords}`);
    return { name, passed: false, failure: reason, seconds, machineBroke };
  }
  return { name, passed: status === 0, seconds, machineBroke };
}

const { values, positionals: asked } = parseArgs({
  allowPositionals: true,
  options: { once: { type: 'boolean', default: false }, script: { type: 'string' } },
});
const unknown = asked.filter((name) => !sittings.some((sitting) => sitting.name === name));
if (unknown.length > 0) {
  const names = sittings.map(({ name }) => name).join(', ');
  console.error(`lab: ${unknown.join(', ')}: no such sitting; there are ${names}`);
  process.exit(2);
}
mkdirSync(REPORTS, { recursive: true });
const outcomes: Outcome[] = [];
for (const sitting of sittings.filter(({ name }) => asked.length === 0 || asked.includes(name))) {
  const hold = values.once || values.script !== undefined ? sitThrough : sitTwice;
  outcomes.push(await hold(withStockGuest(sitting), values.script));
}
writeFileSync(join(REPORTS, 'lab.json'), `${JSON.stringify(outcomes, null, 2)}\n`);
process.exitCode = outcomes.every(({ passed }) => passed) ? 0 : 1;
