// Compiles ffi-napi, by which the NVML probe calls a vendor's library (decision 005), and lays out what of it is needed at
// run time in build/ffi/node_modules.
//
// It is an optional dependency: where it is not installed or does not compile, that is said, everything else is built, and
// the probe answers that it has no foreign-function library. Headers of Node come from beside its binary, as for our addon.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
const target = join(root, 'build', 'ffi');
const NATIVE = ['@2060.io/ref-napi', 'ffi-napi'];
const DEADLINE_MS = 300_000;

/** Whether all of it was compiled, now or earlier. */
export function buildFfi(gyp, gypArgs) {
  if (!NATIVE.every((name) => existsSync(join(modules, name, 'package.json')))) {
    console.log('ffi: ffi-napi is not installed: no NVML probe');
    rmSync(target, { recursive: true, force: true });
    return false;
  }
  try {
    for (const name of NATIVE) compile(join(modules, name), gyp, gypArgs);
    layOut();
    return true;
  } catch (error) {
    console.log(
      `ffi: ffi-napi does not compile here (${String(error.message).split('\n')[0]}): no NVML probe`,
    );
    rmSync(target, { recursive: true, force: true });
    return false;
  }
}

function compile(dir, gyp, gypArgs) {
  if (existsSync(join(dir, 'build/Release', binding(dir)))) return;
  const env = { ...process.env };
  delete env.NODE_EXTRA_CA_CERTS;
  execFileSync(process.execPath, [gyp, 'rebuild', ...gypArgs], {
    cwd: dir,
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: DEADLINE_MS,
    env,
  });
}

function binding(dir) {
  return basename(dir) === 'ffi-napi' ? 'ffi_bindings.node' : 'binding.node';
}

/** The packages that are loaded, without sources and headers, replaced at once. */
function layOut() {
  const fresh = `${target}.new`;
  rmSync(fresh, { recursive: true, force: true });
  for (const dir of closure(join(modules, 'ffi-napi'))) {
    const to = join(fresh, 'node_modules', relative(modules, dir));
    mkdirSync(to, { recursive: true });
    cpSync(dir, to, { recursive: true, filter: (path) => isNeeded(relative(dir, path)) });
  }
  rmSync(target, { recursive: true, force: true });
  renameSync(fresh, target);
}

function isNeeded(path) {
  if (path === '' || /^(build|build\/Release)$/.test(path)) return true;
  if (path.startsWith('build/')) return path.startsWith('build/Release/') && path.endsWith('.node');
  if (/(^|\/)(node_modules|deps|src|test|docs|example|include|types)(\/|$)/.test(path)) {
    // debug and ms keep what they load in src.
    return /^src\/[\w-]+\.js$/.test(path) || path === 'src';
  }
  return /(\.js|\.json|LICENSE.*|lib)$|^lib\//i.test(path);
}

/** Directories of a package and of all that it requires at run time. */
function closure(dir, found = new Set()) {
  if (found.has(dir)) return found;
  found.add(dir);
  const { dependencies = {} } = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'));
  const require = createRequire(join(dir, 'package.json'));
  for (const name of Object.keys(dependencies)) {
    // Headers, which only the compiler reads.
    if (/node-addon-api|-h$/.test(name)) continue;
    const places = require.resolve.paths(name) ?? [];
    const place = places
      .map((path) => join(path, name))
      .find((path) => existsSync(join(path, 'package.json')));
    if (place !== undefined) closure(place, found);
  }
  return found;
}
