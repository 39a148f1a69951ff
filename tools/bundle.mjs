// Bundles the engine and the command line into CommonJS files for Node 20 and later:
//
//   src/engine/main.ts -> dist/engine.cjs
//   src/cli/main.ts    -> dist/cli.main.cjs, run by dist/cli.cjs (tools/loader.cjs)
//   @grpc/grpc-js      -> dist/grpc.cjs   required at run time, only by who speaks gRPC
//   src/devices/gpu/nvml/main.ts -> dist/nvml.cjs   a process of its own; ffi-napi lies beside it (tools/build-ffi.mjs)
//   yaml               -> dist/yaml.cjs   required at run time, only by who reads a CDI spec in YAML
//
// @grpc/grpc-js alone costs an engine about 60 ms of start and 4 MB, and most engines never speak
// gRPC. So imports of it are redirected to dist/grpc.cjs; as src/rpc/grpc is only ever imported
// dynamically, esbuild wraps it and the require runs at its first use. The cut is at the package and
// not at src/rpc/grpc, so that classes such as RuntimeError exist once.
//
// Not minified: a stack in a log must be readable, and start-up gains less than 1 ms from it.
import { copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const outdir = join(root, 'dist');

const lazy = {
  name: 'lazy',
  setup(plugin) {
    const bundled = { '@grpc/grpc-js': './grpc.cjs', yaml: './yaml.cjs' };
    plugin.onResolve({ filter: /^(?:@grpc\/grpc-js|yaml)$/ }, (args) =>
      args.kind === 'entry-point' ? undefined : { path: bundled[args.path], external: true },
    );
  },
};

// Modules of Node that pull much behind them, required at the first use of one of their exports and not when the bundle
// loads: they cost a command of 30 ms ten, and most commands never use them. An import of a CommonJS module is a property
// access at every use, so a module of getters is all it takes.
const costly = /^node:(crypto|net|tty)$/;
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup(plugin) {
    plugin.onResolve({ filter: costly }, (args) =>
      args.namespace === 'lazy-builtin'
        ? { path: args.path, external: true }
        : { path: args.path, namespace: 'lazy-builtin' },
    );
    plugin.onLoad({ filter: /.*/, namespace: 'lazy-builtin' }, async ({ path }) => {
      const getters = Object.keys(await import(path))
        .filter((name) => name !== 'default' && name !== 'module.exports')
        .map(
          (name) =>
            `get ${JSON.stringify(name)}() { return require(${JSON.stringify(path)})[${JSON.stringify(name)}]; },`,
        );
      return { contents: `module.exports = {\n${getters.join('\n')}\n};`, loader: 'js' };
    });
  },
};

const common = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  // ASCII, which tools/loader.cjs relies on.
  charset: 'ascii',
  legalComments: 'none',
  logLevel: 'warning',
  // The sources are ES modules; bundles are CommonJS. Both know where they lie.
  define: { 'import.meta.dirname': '__dirname', 'import.meta.filename': '__filename' },
};

const entries = [
  { entry: 'src/engine/main.ts', outfile: 'engine.cjs', plugins: [lazy] },
  { entry: 'src/cli/main.ts', outfile: 'cli.main.cjs', plugins: [lazy, lazyBuiltins] },
  { entry: 'src/devices/gpu/nvml/main.ts', outfile: 'nvml.cjs', plugins: [] },
  { entry: 'node_modules/@grpc/grpc-js/build/src/index.js', outfile: 'grpc.cjs', plugins: [] },
  { entry: 'node_modules/yaml/dist/index.js', outfile: 'yaml.cjs', plugins: [] },
];

mkdirSync(outdir, { recursive: true });
for (const { entry, outfile, plugins } of entries) {
  if (!existsSync(join(root, entry))) {
    console.error(`bundle: ${entry}: no such file`);
    process.exitCode = 1;
    continue;
  }
  const out = join(outdir, outfile);
  const result = await build({ ...common, entryPoints: [entry], outfile: out, plugins });
  // A warning (an unresolvable require, a duplicate key) is a defect in the product.
  if (result.warnings.length > 0) process.exitCode = 1;
  console.log(`bundle: dist/${outfile} ${(statSync(out).size / 1024).toFixed(0)} KiB`);
}
copyFileSync(join(root, 'tools/loader.cjs'), join(outdir, 'cli.cjs'));
