// Generates src/gen/{bulkhead,containerd,kata}.{js,d.ts} from proto/ (and test/gen/cri.{js,d.ts} from test/proto/).
// Static code, encode and decode only: reflection costs 15-20 ms more at every start (docs/decisions/003-own-ttrpc.md).
// 64-bit integers are plain numbers; a value above 2^53 keeps its leading 53 bits.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { transformSync } from 'esbuild';
import pbjs from 'protobufjs-cli/pbjs.js';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const compile = promisify(pbjs.main);

const bundles = [
  { out: 'src/gen/bulkhead.js', dir: 'proto' },
  { out: 'src/gen/containerd.js', dir: 'proto/containerd' },
  { out: 'src/gen/kata.js', dir: 'proto/kata' },
  { out: 'test/gen/cri.js', dir: 'test/proto' },
];

const options = [
  ...[
    '--target',
    'static-module',
    '--wrap',
    'esm',
    '--dependency',
    'protobufjs/minimal.js',
    '--es6',
    '--dts',
  ],
  ...['--force-number', '--no-create', '--no-verify', '--no-convert', '--no-delimited', '--no-typeurl'],
  '--no-service',
];

const protos = (dir) =>
  existsSync(dir)
    ? readdirSync(dir)
        .filter((name) => name.endsWith('.proto'))
        .sort()
    : [];

/** True when `out` and its types are newer than every source and than this script. */
const fresh = (out, sources) => {
  const outputs = [out, out.replace(/\.js$/, '.d.ts')];
  if (!outputs.every((file) => existsSync(file))) return false;
  const made = Math.min(...outputs.map((file) => statSync(file).mtimeMs));
  return [...sources, fileURLToPath(import.meta.url)].every((file) => statSync(file).mtimeMs < made);
};

/**
 * --force-number is about types only: protobufjs hands out Long objects as long as it has the class. A number has no
 * 2^64 - 1 ("no limit" to the kernel): JSON.parse gives 2^64, which protobufjs would write as 0.
 */
const numbers = `$protobuf.util.Long = null;
$protobuf.configure();
const $Bits = $protobuf.util.LongBits, $bitsOf = $Bits.fromNumber;
$Bits.fromNumber = (value) => value >= 2 ** 64 ? new $Bits(0xffffffff, 0xffffffff) : $bitsOf(value);
`;

/**
 * pbjs derives the types from the comments, so these are made and then taken out of the code. What is left is made
 * short: V8 reads all of it at every start, 14 ms of CPU as pbjs writes it, 11 ms short. The types import `long` by a
 * CommonJS-only form, and for nothing.
 */
const tidy = (target) => {
  const code = readFileSync(target, 'utf8').replace(/^import .*\n/m, (line) => line + numbers);
  writeFileSync(target, transformSync(code, { loader: 'js', legalComments: 'none', minify: true }).code);
  const types = target.replace(/\.js$/, '.d.ts');
  writeFileSync(types, readFileSync(types, 'utf8').replace(/^import Long = require\("long"\);\n/m, ''));
};

for (const { out, dir } of bundles) {
  const sources = protos(join(root, dir)).map((name) => join(root, dir, name));
  const target = join(root, out);
  if (sources.length === 0 || (fresh(target, sources) && !process.argv.includes('--force'))) continue;
  mkdirSync(dirname(target), { recursive: true });
  // Both files are made aside and renamed: a test or build that runs meanwhile sees the old ones whole.
  const staging = mkdtempSync(join(dirname(target), '.gen-'));
  try {
    const made = join(staging, basename(target));
    // One protobuf root a bundle: otherwise the modules would share, and merge into, protobufjs' default root.
    const name = basename(target, '.js');
    await compile([...options, '--root', name, '--path', join(root, dir), '--out', made, ...sources]);
    tidy(made);
    for (const file of readdirSync(staging)) renameSync(join(staging, file), join(dirname(target), file));
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
  console.log(`${out}: ${sources.length} files`);
}
