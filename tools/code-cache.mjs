// Makes the code caches of an installation: node tools/code-cache.mjs LIB/cli.cjs. To be run by the Node.js that will run
// the program, since V8 refuses another version's. The program runs once, on a plan that it prints to nobody, so that the
// functions which every command needs are in the cache.
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const [program, inner] = process.argv.slice(2);
if (program === undefined) {
  console.error('usage: code-cache.mjs LIB/cli.cjs');
  process.exit(2);
}
const loader = resolve(program);
if (inner === undefined) {
  makeCache();
} else {
  warmUp(inner);
}

function makeCache() {
  const bundle = mkdtempSync(join(tmpdir(), 'bulkhead-cache-'));
  try {
    const base = [fileURLToPath(import.meta.url), loader];
    const env = { ...process.env, BULKHEAD_ROOT: join(bundle, 'state') };
    const options = { stdio: ['ignore', 'ignore', 'inherit'], env };
    const spec = spawnSync(process.execPath, [loader, 'spec', '--bundle', bundle], options);
    const warm = spawnSync(process.execPath, [...base, bundle], options);
    if (spec.status !== 0 || warm.status !== 0) process.exitCode = 1;
  } finally {
    rmSync(bundle, { recursive: true, force: true });
  }
}

/** Runs `plan` in this process and keeps what was compiled when it exits. */
function warmUp(bundle) {
  const exit = process.exit.bind(process);
  const module = createRequire(import.meta.url);
  process.argv = [process.execPath, loader, 'plan', '--bundle', bundle];
  process.exit = (status) => {
    if (status === 0) {
      const cache = loader.replace(/\.cjs$/, '.main.cache');
      const { script } = module.cache[loader].exports;
      writeFileSync(`${cache}.tmp`, script.createCachedData());
      renameSync(`${cache}.tmp`, cache);
    }
    exit(status);
  };
  module(loader);
}
