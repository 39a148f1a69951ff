// Runs the addon's tests with the addon built under AddressSanitizer and UBSan, in an ordinary Node:
//
//   node tools/test-addon-asan.mjs [vitest's arguments]
//
// The sanitizers' run-time libraries must come before everything else, hence LD_PRELOAD. Leaks are not looked for: Node
// leaves plenty at its end. One warning is expected, that ASan ignores a stack it does not know: the launched child's.
import { execFileSync, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(root, 'tools', 'build-native.mjs');
execFileSync(process.execPath, [build, '--addon-only', '--sanitize=address,undefined'], { stdio: 'inherit' });

const library = (name) =>
  execFileSync(process.env.CXX ?? 'g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
const { status } = spawnSync(process.execPath, [vitest, 'run', 'src/native', ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
    BULKHEAD_ADDON: join(root, 'build', 'native', 'asan', 'addon.node'),
  },
});
process.exitCode = status ?? 1;
