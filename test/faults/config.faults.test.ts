/**
 * Hostile bundles at the runtime layer, with the kernel behind it: what is valid starts, everything else is refused in
 * one short sentence that names its object, and nothing is left behind either way.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync, chmodSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../src/base/errors.ts';
import { isAlive } from '../../src/base/proc.ts';
import { startContainer } from '../../src/runtime/start.ts';
import { applyMutation, mutation, type Json } from '../property/hostile.ts';
import { specNames } from './lib/bundles.ts';
import { cgroupParent, changesSince, look } from './lib/host.ts';
import { Local } from './lib/local.ts';

const MAX_SENTENCE = 500;
const local = new Local();
const id = 'f-config';
let before: ReturnType<typeof look>;

beforeAll(async () => {
  await local.prepare();
  local.bundle.write(local.bundle.spec('plain', id));
  await local.remove(await local.create(id));
  before = look(local.watched);
});
afterAll(() => local.dispose());

/** Creates, starts and removes what can be; else the one sentence. */
async function attempt(bundle = local.bundle.dir): Promise<RuntimeError | undefined> {
  try {
    const container = await local.create(id, false, bundle);
    try {
      await startContainer(local.ctx, container);
    } finally {
      await local.remove(container);
    }
    return undefined;
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    expect(error.message).toMatch(/^(create|start) f-config: [^\n]+$/);
    expect(error.message.length).toBeLessThanOrEqual(MAX_SENTENCE);
    return error;
  } finally {
    expect(await changesSince(before, local.watched)).toEqual([]);
  }
}

/** Leaves the cgroups of this run alone, whatever the path was changed to: they are removed with the run. */
function confined(value: Json): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const { linux, hooks: _hooks, ...rest } = value as { linux?: Json; hooks?: Json };
  if (typeof linux !== 'object' || linux === null || Array.isArray(linux))
    return { ...rest, linux: linux ?? null };
  if (typeof linux.cgroupsPath !== 'string') return { ...rest, linux };
  return { ...rest, linux: { ...linux, cgroupsPath: `${cgroupParent()}/${id}` } };
}

const seeds = (): Json[] =>
  specNames
    .filter((name) => name !== 'terminal')
    .map((name) => local.bundle.spec(name, id) as unknown as Json);

describe('a bundle that is', () => {
  const dir = (): string => join(local.dir, 'b');
  const config = (): string => join(dir(), 'config.json');
  const valid = (): string =>
    JSON.stringify({ ...local.bundle.spec('plain', id), root: { path: local.bundle.rootfs } });
  beforeEach(() => {
    rmSync(dir(), { recursive: true, force: true });
    mkdirSync(dir(), { recursive: true });
  });

  const cases: [string, () => void, ErrorCode, RegExp][] = [
    [
      'without a config.json',
      () => {},
      ErrorCode.NotFound,
      /config\.json: no such file or directory; make one/,
    ],
    ['absent', () => rmSync(dir(), { recursive: true }), ErrorCode.NotFound, /config\.json: no such file/],
    [
      'with a directory',
      () => mkdirSync(config()),
      ErrorCode.InvalidArgument,
      /config\.json: is a directory/,
    ],
    [
      'with a fifo',
      () => void spawnSync('mkfifo', [config()]),
      ErrorCode.InvalidArgument,
      /not a regular file/,
    ],
    [
      'with a device',
      () => symlinkSync('/dev/zero', config()),
      ErrorCode.InvalidArgument,
      /not a regular file/,
    ],
    [
      'with a loop of links',
      () => symlinkSync('config.json', config()),
      ErrorCode.InvalidArgument,
      /too many .*symbolic links/,
    ],
    [
      'with a dangling link',
      () => symlinkSync('nowhere', config()),
      ErrorCode.NotFound,
      /config\.json: no such file/,
    ],
    ['empty', () => writeFileSync(config(), ''), ErrorCode.InvalidArgument, /config\.json: is not JSON/],
    [
      'huge',
      () => {
        writeFileSync(config(), '');
        truncateSync(config(), 2 ** 40);
      },
      ErrorCode.InvalidArgument,
      /larger than/,
    ],
    [
      'made of NUL bytes',
      () => writeFileSync(config(), Buffer.alloc(1000)),
      ErrorCode.InvalidArgument,
      /is not JSON/,
    ],
    [
      'not UTF-8',
      () => writeFileSync(config(), Buffer.from([0xff, 0xfe, 0x7b])),
      ErrorCode.InvalidArgument,
      /is not JSON/,
    ],
    [
      'nested deeply',
      () => writeFileSync(config(), '['.repeat(1_000_000)),
      ErrorCode.InvalidArgument,
      /nested deeper/,
    ],
    [
      'all one string',
      () => writeFileSync(config(), JSON.stringify('x'.repeat(1_000_000))),
      ErrorCode.InvalidArgument,
      /config\.json: top level: must be an object/,
    ],
  ];
  it.each(cases)('%s', async (_name, make, code, text) => {
    make();
    const error = await attempt(dir());
    expect(error?.message).toMatch(text);
    expect(error?.code).toBe(code);
  });

  it.each([
    ['has spaces', 'with some spaces'],
    ['is unicode', 'bündel-容器-🚢'],
    ['is very long', `${'d'.repeat(200)}/${'e'.repeat(200)}/${'f'.repeat(200)}`],
    ['has a line break', 'two\nlines'],
  ])('at a path that %s', async (_name, name) => {
    const bundle = join(dir(), name);
    mkdirSync(bundle, { recursive: true });
    writeFileSync(join(bundle, 'config.json'), valid());
    expect(await attempt(bundle)).toBeUndefined();
    writeFileSync(join(bundle, 'config.json'), '{');
    expect(await attempt(bundle)).toBeInstanceOf(RuntimeError);
    rmSync(join(bundle, 'config.json'));
    expect((await attempt(bundle))?.code).toBe(ErrorCode.NotFound);
  });

  const roots: [string, () => string, RegExp | undefined][] = [
    ['missing', () => 'nowhere', /\/b\/nowhere: no such file or directory/],
    ['a file', () => 'config.json', /\/b\/config\.json: /],
    [
      'a loop',
      () => {
        symlinkSync('loop', join(dir(), 'loop'));
        return 'loop';
      },
      /\/b\/loop: too many .*symbolic links/,
    ],
    ['a device', () => '/dev/null', /\/dev\/null: /],
    [
      'empty',
      () => {
        mkdirSync(join(dir(), 'empty'));
        return 'empty';
      },
      /exec "\/bin\/sleep": no such file or directory/,
    ],
    ['the bundle itself', () => '.', /exec "\/bin\/sleep": no such file or directory/],
    ['too long', () => 'x/'.repeat(3000), /config\.json: root\.path/],
    ['with a NUL', () => 'a\0b', /config\.json: root\.path/],
    [
      'for nobody',
      () => {
        mkdirSync(join(dir(), 'r'));
        chmodSync(join(dir(), 'r'), 0);
        return 'r';
      },
      /exec "\/bin\/sleep": no such file/,
    ],
  ];
  it.each(roots)('with a root that is %s', async (_name, make, text) => {
    const spec = local.bundle.spec('plain', id);
    spec.root = { path: make() };
    writeFileSync(config(), JSON.stringify(spec));
    const error = await attempt(dir());
    expect(error?.message).toMatch(text ?? /never/);
  });
});

describe('config.json', () => {
  it('damaged in its values starts, or is refused in one sentence', async () => {
    const outcomes = { started: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...seeds()),
        fc.array(mutation, { minLength: 1, maxLength: 2 }),
        async (seed, changes) => {
          let value = seed;
          for (const change of changes) value = applyMutation(value, change);
          writeFileSync(join(local.bundle.dir, 'config.json'), JSON.stringify(confined(value)));
          const error = await attempt();
          outcomes[error === undefined ? 'started' : 'refused'] += 1;
        },
      ),
      { numRuns: 400, endOnFailure: true },
    );
    console.log(`${outcomes.started} started, ${outcomes.refused} refused`);
    expect(outcomes.started).toBeGreaterThan(8);
    expect(outcomes.refused).toBeGreaterThan(100);
  });

  it('damaged in its bytes starts, or is refused in one sentence', async () => {
    // The cgroup stays where the run is looked after: a damaged name would be nobody's.
    const spec = local.bundle.spec('plain', id);
    delete spec.linux!.cgroupsPath;
    const cgroup = JSON.stringify({ cgroupsPath: `${cgroupParent()}/${id}` }).slice(1, -1);
    const text = Buffer.from(JSON.stringify(spec).replace('"linux":{', `"linux":{${cgroup},`));
    const kept = text.indexOf(cgroup);
    const whole = Buffer.from(cgroup);
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: text.length - 1 }),
        fc.uint8Array({ minLength: 1, maxLength: 8 }),
        async (at, bytes) => {
          const damaged = Buffer.from(text);
          damaged.set(bytes.subarray(0, damaged.length - at), at);
          damaged.set(whole, kept);
          writeFileSync(join(local.bundle.dir, 'config.json'), damaged);
          await attempt();
        },
      ),
      { numRuns: 200 },
    );
  });

  it('of any JSON at all is refused in one sentence', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json(), async (text) => {
        writeFileSync(join(local.bundle.dir, 'config.json'), text);
        expect((await attempt())?.code).toBe(ErrorCode.InvalidArgument);
      }),
      { numRuns: 100 },
    );
  });

  it('works afterwards', async () => {
    local.bundle.write(local.bundle.spec('plain', id));
    const container = await local.create(id);
    expect(isAlive(await startContainer(local.ctx, container))).toBe(true);
    await local.remove(container);
  });
});
