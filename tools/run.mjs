// Runs a TypeScript program of this tree on the machine's own Node (20 cannot strip types by itself):
//   node tools/run.mjs FILE.ts [ARGUMENTS]
import { mkdirSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [, , entry, ...args] = process.argv;
if (entry === undefined) {
  console.error('usage: node tools/run.mjs FILE.ts [ARGUMENTS]');
  process.exit(2);
}
const source = resolve(entry);
const outfile = join(root, 'build', 'run', `${basename(dirname(source))}-${basename(source, '.ts')}.mjs`);
mkdirSync(dirname(outfile), { recursive: true });
await build({
  entryPoints: [source],
  outfile,
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'esm',
  packages: 'external',
  logLevel: 'warning',
  sourcemap: 'inline',
  // The bundle lies elsewhere; programs find the tree by this name instead of by their own place.
  define: { 'import.meta.dirname': JSON.stringify(dirname(source)) },
});
process.argv = [process.argv[0], source, ...args];
await import(pathToFileURL(outfile).href);
