// Runs a TypeScript program of this tree on the machine's own Node (20 cannot strip types by itself):
//   node tools/run.mjs FILE.ts [ARGUMENTS]
import { mkdirSync, readFileSync } from 'node:fs';
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
// The bundle lies elsewhere, but each module goes on knowing its own folder.
const ownDirectory = {
  name: 'own-directory',
  setup(plugin) {
    plugin.onLoad({ filter: /\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replaceAll('import.meta.dirname', JSON.stringify(dirname(path))),
      loader: 'ts',
    }));
  },
};
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
  plugins: [ownDirectory],
});
process.argv = [process.argv[0], source, ...args];
await import(pathToFileURL(outfile).href);
