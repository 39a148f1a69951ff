/** The script that a sitting's machine runs: modules, then vitest, whose report goes where the host finds it. */
import type { Sitting } from './sittings.ts';

const CONFIG = 'test/lab/vitest.config.ts';
/** Times the deadlines of the tests: everything is emulated. */
const PATIENCE = '6';
const REPORT = '/run/lab/report.json';

/** A script for bash, to be run in the source tree. Its exit status is vitest's. `files`: instead of the sitting's. */
export function job(sitting: Sitting, files: readonly string[] = sitting.files): string {
  const { env = {}, modules = [], prepare, privately = false } = sitting;
  const vitest = [
    ...(privately ? ['tools/private.sh'] : []),
    ...['node', 'node_modules/vitest/vitest.mjs', 'run', '--config', CONFIG],
    ...['--reporter=verbose', '--reporter=json', `--outputFile.json=${REPORT}`],
    ...files,
  ];
  return [
    ...modules.map((name) => `modprobe ${quote(name)} || exit 1`),
    ...(prepare === undefined ? [] : [`{ ${prepare}; } || exit 1`]),
    `export BULKHEAD_TEST_PATIENCE=${PATIENCE}`,
    ...Object.entries(env).map(([name, value]) => `export ${name}=${quote(value)}`),
    // Not on the console itself: vitest would draw a live display there.
    `set -o pipefail; ${vitest.map(quote).join(' ')} </dev/null 2>&1 | cat`,
    '',
  ].join('\n');
}

const quote = (word: string): string =>
  /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
