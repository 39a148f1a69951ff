// Builds the native parts into build/native: addon.node (node-gyp over binding.gyp) and the static helpers (make).
//
//   node tools/build-native.mjs [--addon-only] [--sanitize=address,undefined]
//
// Last comes ffi-napi (tools/build-ffi.mjs), which nothing but the NVML probe needs.
//
// node-gyp would download Node's headers; they lie beside the node binary in every distribution of it, so it is given
// those with --nodedir (`npm config set nodedir` has no effect on a node-gyp that is run directly).
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildFfi } from './build-ffi.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const options = process.argv.slice(2);
const addonOnly = options.includes('--addon-only');
const sanitize = options.find((option) => option.startsWith('--sanitize='))?.slice('--sanitize='.length);
const outdir = join(root, 'build', 'native', ...(sanitize === undefined ? [] : ['asan']));

function run(command, args) {
  const env = { ...process.env };
  delete env.NODE_EXTRA_CA_CERTS;
  execFileSync(command, args, { cwd: root, stdio: 'inherit', env });
}

/** The directory with include/node/node_api.h: the configured one, the binary's own prefix, or a system one. */
function findNodeDir() {
  const prefix = dirname(dirname(process.execPath));
  const candidates = [process.env.npm_config_nodedir, prefix, '/usr/local', '/usr'];
  return candidates.find(
    (dir) => dir !== undefined && existsSync(join(dir, 'include', 'node', 'node_api.h')),
  );
}

/** Replaced by rename: a process may have the old file mapped. */
function install(from, name) {
  const target = join(outdir, name);
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(from, `${target}.new`);
  renameSync(`${target}.new`, target);
}

const gyp = require.resolve('node-gyp/bin/node-gyp.js');
const nodedir = findNodeDir();
// A sanitized build lives in gyp's Debug folder, so that neither makes the other start anew.
const gypArgs = [
  sanitize === undefined ? '--release' : '--debug',
  '--jobs=2',
  '--loglevel=warn',
  ...(nodedir === undefined ? [] : [`--nodedir=${nodedir}`]),
];
const configured = sanitize === undefined ? [] : ['--', `-Dsanitize=${sanitize}`];
run(process.execPath, [gyp, 'configure', ...gypArgs, ...configured]);
run(process.execPath, [gyp, 'build', ...gypArgs]);
const built = join(root, 'build', sanitize === undefined ? 'Release' : 'Debug');
install(join(built, 'addon.node'), 'addon.node');
if (sanitize === undefined) install(join(built, 'seccomp-probe'), 'seccomp-probe');
if (!addonOnly) run('make', ['-C', 'native', '-j2', '--no-print-directory']);
if (sanitize === undefined && !addonOnly) buildFfi(gyp, gypArgs);
