import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

/**
 * The layer map of the design: who in src/ may import whom. `base` and `gen` are open to everyone and so are
 * not listed. An entry is a layer, or a single module of it ("sandbox/registry"); `type:` allows only
 * `import type`.
 */
const mayImport: Record<string, readonly string[]> = {
  base: [],
  gen: [],
  oci: [],
  plan: ['oci'],
  devices: ['plan', 'oci'],
  native: ['plan', 'oci'],
  cgroups: ['oci', 'plan', 'type:native'],
  state: ['oci'],
  events: ['oci', 'native'],
  metrics: ['oci', 'native', 'cgroups'],
  guest: [],
  sandbox: ['guest', 'oci', 'plan', 'devices', 'cgroups', 'native', 'state', 'metrics'],
  runtime: [
    'oci',
    'plan',
    'cgroups',
    'state',
    'events',
    'metrics',
    'sandbox/backend',
    'sandbox/registry',
    'sandbox/executor',
    'sandbox/devices',
    'type:native',
  ],
  task: ['oci', 'runtime', 'events', 'metrics'],
  rpc: [],
  engine: ['*'],
  cli: [
    'oci',
    'plan',
    'runtime',
    'sandbox/registry',
    'sandbox/executor',
    'sandbox/devices',
    'sandbox/namespace/backend',
    'sandbox/sentry/backend',
    'sandbox/sentry/host',
    'sandbox/sentry/explain',
    'sandbox/sentry/report',
    'sandbox/sentry/socket',
    'sandbox/sentry/socket_log',
    'sandbox/sentry/watch',
    'sandbox/backend',
    'sandbox/host',
    'sandbox/passing',
    'sandbox/passing_host',
    'sandbox/vm/config',
    'sandbox/vm/console',
    'sandbox/vm/find',
    'sandbox/vm/host',
    'guest',
    'devices',
    'native',
    'cgroups',
    'state',
    'metrics',
  ],
};

/** Backends are siblings: they may share sandbox/*.ts, never each other's folder. */
const backends = ['namespace', 'vm', 'sentry'];

/** These layers compute: given the same inputs they give the same answer, so they reach nothing outside. */
const pure: Record<string, readonly string[]> = { oci: ['node:path'], plan: ['node:path', 'node:buffer'] };

const src = join(import.meta.dirname, '..', 'src');

interface Import {
  file: string;
  target: string;
  typeOnly: boolean;
}

const importPattern =
  /(?:^|\n)\s*(?:(import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"])|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;

/** Every import and re-export of one module's text, types apart. */
const importsOf = (file: string, text: string): Import[] =>
  [...text.matchAll(importPattern)].map((match) => ({
    file,
    target: match[3] ?? match[4] ?? '',
    typeOnly: match[2] !== undefined,
  }));

const layerOf = (path: string): string => path.split('/')[0] ?? '';

/** Why this import breaks the map, or undefined when it does not. `file` and the target are relative to src/. */
export const violation = ({ file, target, typeOnly }: Import): string | undefined => {
  const from = layerOf(file);
  if (!target.startsWith('.')) {
    const allowed = pure[from];
    if (!allowed || !target.startsWith('node:') || allowed.includes(target) || typeOnly) return undefined;
    return `src/${file}: imports ${target}, but src/${from} is pure: it may use only ${allowed.join(', ')}`;
  }
  const path = normalize(join(dirname(file), target)).replace(/\.(ts|js)$/, '');
  if (path.startsWith('..')) return `src/${file}: imports ${target}, which is outside src/`;
  const to = layerOf(path);
  if (from === 'sandbox' && to === 'sandbox') return siblingViolation(file, path);
  if (to === from || to === 'base' || to === 'gen') return undefined;
  const allowed = mayImport[from];
  if (!allowed) return `src/${file}: src/${from} is not in the layer map (test/layers.test.ts)`;
  const fits = (entry: string): boolean => {
    if (entry === '*') return true;
    if (entry.startsWith('type:')) return typeOnly && entry.slice(5) === to;
    return entry === to || entry === path;
  };
  if (allowed.some(fits)) return undefined;
  return `src/${file}: imports ${path}, but src/${from} may import only: base, gen${allowed.map((a) => `, ${a}`).join('')}`;
};

const siblingViolation = (file: string, path: string): string | undefined => {
  const own = file.split('/')[1] ?? '';
  const other = path.split('/')[1] ?? '';
  if (!backends.includes(other) || own === other || file === 'sandbox/registry.ts') return undefined;
  return `src/${file}: imports ${path}: a backend never imports its sibling, and only sandbox/registry.ts names backends`;
};

const sources = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts') && !name.startsWith('gen/'))
  .filter((name) => !name.endsWith('.test.ts') && !name.split('/').includes('testing'));

describe('layers', () => {
  it('knows every folder of src/', () => {
    const folders = readdirSync(src, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    expect(folders.map((entry) => entry.name).filter((name) => !(name in mayImport))).toEqual([]);
  });

  it('finds imports of every form', () => {
    const text = `import a from './a.ts';\nimport type { B } from '../b/b.ts';\nexport * from './c.ts';
      import {\n  d,\n} from './d.ts';\nimport './e.ts';\nconst f = await import('./f.ts');`;
    expect(importsOf('x/y.ts', text).map((found) => found.target)).toEqual([
      './a.ts',
      '../b/b.ts',
      './c.ts',
      './d.ts',
      './e.ts',
      './f.ts',
    ]);
  });

  it.each([
    ['plan/builder.ts', '../native/index.ts', false, 'src/plan may import only: base, gen, oci'],
    ['plan/builder.ts', 'node:fs', false, 'src/plan is pure'],
    ['sandbox/vm/x.ts', '../namespace/y.ts', false, 'a backend never imports its sibling'],
    ['cgroups/a.ts', '../native/index.ts', false, 'type:native'],
    ['runtime/create.ts', '../sandbox/namespace/backend.ts', false, 'sandbox/backend, sandbox/registry'],
    ['oci/a.ts', '../../test/x.ts', false, 'outside src/'],
    ['new/a.ts', '../oci/types.ts', false, 'not in the layer map'],
  ])('refuses %s importing %s', (file, target, typeOnly, reason) => {
    expect(violation({ file, target, typeOnly })).toContain(reason);
  });

  it.each([
    ['cgroups/a.ts', '../native/addon.d.ts', true],
    ['plan/builder.ts', '../oci/types.ts', false],
    ['runtime/create.ts', '../sandbox/registry.ts', false],
    ['sandbox/registry.ts', './namespace/backend.ts', false],
    ['plan/builder.ts', '../base/errors.ts', false],
  ])('allows %s importing %s', (file, target, typeOnly) => {
    expect(violation({ file, target, typeOnly })).toBeUndefined();
  });

  it('holds in every file of src/', () => {
    expect(sources.length).toBeGreaterThan(10);
    const found = sources.flatMap((file) =>
      importsOf(file, readFileSync(join(src, file), 'utf8'))
        .map(violation)
        .filter((text) => text !== undefined),
    );
    expect(found).toEqual([]);
  });

  it('is read from the right place', () => {
    expect(relative(process.cwd(), src)).toBe('src');
  });
});
