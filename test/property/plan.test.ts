/**
 * Properties of validation and compilation over generated configurations: well-formed ones (any combination of what
 * the specification has) and hostile ones (a good configuration with values torn out, swapped and blown up).
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RuntimeError } from '../../src/base/errors.ts';
import { CAPABILITIES } from '../../src/oci/capabilities.ts';
import { knownMountOptions, parseMountOptions } from '../../src/oci/mount_options.ts';
import { RLIMITS } from '../../src/oci/rlimits.ts';
import { parseSpec } from '../../src/oci/validate/index.ts';
import { compileCreate } from '../../src/plan/compile.ts';
import { decodePlan, encodePlan } from '../../src/plan/encode.ts';
import type { HostFacts, LaunchPlan, PlanInput, Step } from '../../src/plan/inputs.ts';
import { actionOf, printPlan } from '../../src/plan/print.ts';
import { caseNames, planInput, readCase } from '../bundles/cases.ts';
import { applyMutation, mutation, type Json } from './hostile.ts';

const name = fc.stringMatching(/^[a-z][a-z0-9]{0,7}$/);
const path = fc.array(name, { minLength: 1, maxLength: 4 }).map((parts) => `/${parts.join('/')}`);
const uint = fc.integer({ min: 0, max: 0xfffffffe });

const capabilitySet = fc.subarray([...CAPABILITIES, 'CAP_UNHEARD_OF']);
const rlimit = fc
  .record({
    type: fc.constantFrom(...RLIMITS.keys()),
    a: fc.oneof(uint, fc.constant(2 ** 64)),
    b: fc.oneof(uint, fc.constant(2 ** 64)),
  })
  .map(({ type, a, b }) => ({ type, soft: Math.min(a, b), hard: Math.max(a, b) }));

const processArbitrary = fc.record(
  {
    terminal: fc.boolean(),
    consoleSize: fc.record({
      width: fc.integer({ min: 0, max: 500 }),
      height: fc.integer({ min: 0, max: 500 }),
    }),
    user: fc.record({ uid: uint, gid: uint, additionalGids: fc.array(uint, { maxLength: 4 }) }),
    args: fc.array(
      fc.string({ minLength: 1 }).filter((text) => !text.includes('\0')),
      {
        minLength: 1,
        maxLength: 4,
      },
    ),
    env: fc.array(
      fc.tuple(name, name).map(([key, value]) => `${key}=${value}`),
      { maxLength: 4 },
    ),
    cwd: path,
    capabilities: fc.record(
      {
        bounding: capabilitySet,
        effective: capabilitySet,
        permitted: capabilitySet,
        inheritable: capabilitySet,
        ambient: capabilitySet,
      },
      { requiredKeys: [] },
    ),
    rlimits: fc.uniqueArray(rlimit, { selector: ({ type }) => type, maxLength: 4 }),
    noNewPrivileges: fc.boolean(),
    oomScoreAdj: fc.integer({ min: -1000, max: 1000 }),
  },
  { requiredKeys: ['user', 'args', 'cwd'] },
);

const bindOptions = fc.subarray(
  knownMountOptions().filter((option) => !['tmpcopyup', 'idmap', 'ridmap'].includes(option)),
);
const mount = fc.oneof(
  fc.record({ path, source: path, options: bindOptions }).map((it) => ({
    destination: `/mnt${it.path}`,
    type: 'bind',
    source: it.source,
    options: ['rbind', ...it.options],
  })),
  fc
    .record({ path, options: fc.subarray(['ro', 'nosuid', 'noexec', 'size=1m', 'tmpcopyup', 'rshared']) })
    .map((it) => ({
      destination: `/tmpfs${it.path}`,
      type: 'tmpfs',
      options: it.options,
    })),
  fc.constant({ destination: '/proc', type: 'proc', source: 'proc' }),
  fc.constant({ destination: '/sys/fs/cgroup', type: 'cgroup', options: ['ro'] }),
);

const namespaces = fc
  .record({
    types: fc.subarray(['pid', 'network', 'ipc', 'uts', 'cgroup', 'time', 'user']),
    joined: fc.subarray(['pid', 'network', 'ipc', 'uts', 'cgroup', 'time', 'user']),
  })
  .map(({ types, joined }) => [
    { type: 'mount' },
    ...types.map((type) => (joined.includes(type) ? { type, path: `/proc/7/ns/${type}` } : { type })),
  ]);

const hook = fc.record({ path, args: fc.array(name, { maxLength: 2 }) });
const spec = fc
  .record({
    process: processArbitrary,
    root: fc.record({ path: fc.constant('rootfs'), readonly: fc.boolean() }),
    mounts: fc.array(mount, { maxLength: 6 }),
    hooks: fc.record(
      {
        prestart: fc.array(hook, { maxLength: 2 }),
        createContainer: fc.array(hook, { maxLength: 2 }),
        startContainer: fc.array(hook, { maxLength: 2 }),
      },
      { requiredKeys: [] },
    ),
    namespaces,
    maskedPaths: fc.array(path, { maxLength: 3 }),
    readonlyPaths: fc.array(path, { maxLength: 3 }),
    rootfsPropagation: fc.constantFrom(
      '',
      'private',
      'rprivate',
      'rslave',
      'rshared',
      'shared',
      'unbindable',
    ),
    devices: fc.array(
      fc.record({
        path: path.map((it) => `/dev${it}`),
        type: fc.constantFrom('c', 'b', 'u', 'p'),
        major: uint,
        minor: uint,
      }),
      { maxLength: 3 },
    ),
  })
  .map(({ process, root, mounts, hooks, namespaces: listed, ...linux }) => {
    const user = listed.some(({ type }) => type === 'user');
    const maps = user ? [{ containerID: 0, hostID: 100000, size: 65536 }] : [];
    return {
      ociVersion: '1.3.0',
      process,
      root,
      mounts,
      hooks,
      linux: { ...linux, namespaces: listed, uidMappings: maps, gidMappings: maps },
    };
  });

const host: fc.Arbitrary<HostFacts> = fc.record({
  capLastCap: fc.integer({ min: 30, max: 40 }),
  kernelRelease: fc.constant('6.18.0'),
  canRaiseLimits: fc.boolean(),
  apparmor: fc.boolean(),
  selinux: fc.boolean(),
  unprivileged: fc.boolean(),
  kcore: fc.boolean(),
});

const views: PlanInput['cgroup']['view'][] = [
  {
    mode: 'v1',
    hierarchies: [{ names: ['cpu', 'cpuacct'], mountPoint: '/c/cpu,cpuacct', path: '/c/cpu,cpuacct/x' }],
  },
  { mode: 'v2', hierarchies: [], unified: { mountPoint: '/c', path: '/c/x' } },
  {
    mode: 'hybrid',
    hierarchies: [{ names: ['pids'], mountPoint: '/c/pids', path: '/c/pids/x' }],
    unified: { mountPoint: '/c/unified', path: '/c/unified/x' },
  },
];

const input = fc
  .record({
    spec,
    host,
    view: fc.constantFrom(...views),
    overlay: fc.boolean(),
    seccomp: fc.boolean(),
    fifo: fc.boolean(),
  })
  .map((it) => ({
    text: JSON.stringify(it.spec),
    make: (): PlanInput => ({
      id: 'p',
      bundle: '/b',
      spec: parseSpec(JSON.stringify(it.spec), 'p'),
      rootfs: {
        path: '/b/rootfs',
        mounts: it.overlay
          ? [{ type: 'overlay', source: 'overlay', options: ['lowerdir=/l', 'workdir=/w'] }]
          : [],
      },
      cgroup: { outer: [{ makeCgroup: { path: '/c/x' } }, { joinCgroup: { path: '/c/x' } }], view: it.view },
      seccomp: it.seccomp ? { program: new Uint8Array(16), flags: 0 } : undefined,
      host: it.host,
      gate: it.fifo ? { kind: 'fifo', path: '/run/start' } : { kind: 'sync' },
    }),
  }));

/** Valid on paper, but not for this host or version: a RuntimeError, which is a fine answer here. */
function tryCompile(make: () => PlanInput): LaunchPlan | undefined {
  try {
    return compileCreate(make());
  } catch (error) {
    if (error instanceof RuntimeError) return undefined;
    throw error;
  }
}

const innerOnly = new Set([
  'enterRoot',
  'attach',
  'setPropagation',
  'mkdir',
  'mknod',
  'symlink',
  'pivotRoot',
  'maskPath',
  'readonlyPath',
  'remountRoot',
  'hostname',
  'domainname',
  'sysctl',
  'loopbackUp',
  'umask',
  'personality',
  'ioPriority',
  'scheduler',
  'sessionKeyring',
  'lsmExecLabel',
  'terminal',
  'findExecutable',
  'gate',
  'runHook',
  'user',
  'boundingSet',
  'capabilities',
  'noNewPrivs',
  'seccomp',
  'chdir',
  'exec',
]);
const outerOnly = new Set([
  'makeCgroup',
  'joinCgroup',
  'joinNamespace',
  'unshare',
  'oomScoreAdj',
  'openFile',
]);

const actions = (plan: LaunchPlan): string[] =>
  (plan.steps ?? []).map((step) => actionOf(step)?.name ?? 'nothing');

/** Slots that a step fills and slots that it uses. */
function slotsOf(step: Step): { fills: number[]; uses: number[] } {
  const some = (slot: number | null | undefined): number[] =>
    slot === undefined || slot === null || slot === 0 ? [] : [slot];
  return {
    fills: [...some(step.openTree?.slot), ...some(step.fsMount?.slot), ...some(step.openFile?.slot)],
    uses: [
      ...some(step.openTree?.baseSlot),
      ...some(step.attach?.slot),
      ...some(step.mountSetattr?.slot),
      ...some(step.mknod?.bindSlot),
      ...some(step.gate?.fifoSlot),
      ...some(step.seccomp?.listenerSlot),
    ],
  };
}

describe('plans of well-formed configurations', () => {
  it('are mostly possible, so that the properties below are about something', () => {
    const results = fc.sample(input, 300).map(({ make }) => tryCompile(make));
    expect(results.filter((plan) => plan !== undefined).length).toBeGreaterThan(100);
  });

  it('are the same for the same input', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        expect(tryCompile(make)).toEqual(tryCompile(make));
      }),
    );
  });

  it('fill every slot once, before it is used, and use it', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        const plan = tryCompile(make);
        const filled = new Set<number>();
        const used = new Set<number>();
        for (const step of plan?.steps ?? []) {
          const { fills, uses } = slotsOf(step);
          for (const slot of uses) {
            expect(filled.has(slot)).toBe(true);
            used.add(slot);
          }
          for (const slot of fills) {
            expect(filled.has(slot)).toBe(false);
            filled.add(slot);
          }
        }
        expect([...filled].sort()).toEqual([...used].sort());
      }),
    );
  });

  it('have one Clone, with outer steps before it and inner ones behind it, and end in the only Exec', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        const plan = tryCompile(make);
        if (plan === undefined) return;
        const names = actions(plan);
        expect(names.filter((it) => it === 'clone').length).toBe(1);
        const clone = names.indexOf('clone');
        names.forEach((it, index) => {
          if (innerOnly.has(it)) expect(index).toBeGreaterThan(clone);
          if (outerOnly.has(it)) expect(index).toBeLessThan(clone);
        });
        expect(names.indexOf('exec')).toBe(names.length - 1);
        expect(names).not.toContain('nothing');
      }),
    );
  });

  it('give up privileges in an order that works', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        const plan = tryCompile(make);
        if (plan === undefined) return;
        const names = actions(plan);
        const at = (it: string): number => names.indexOf(it);
        expect(at('boundingSet')).toBeLessThan(at('user'));
        expect(at('user')).toBeLessThan(at('capabilities'));
        expect(at('capabilities')).toBeLessThan(at('findExecutable'));
        expect(at('pivotRoot')).toBeLessThan(at('user'));
        const startGate = names.lastIndexOf('gate');
        expect(at('findExecutable')).toBeLessThan(startGate);
        if (at('seccomp') < 0) return;
        // A filter without no_new_privs needs CAP_SYS_ADMIN; one with it comes last.
        if (at('noNewPrivs') < 0) expect(at('seccomp')).toBeLessThan(at('boundingSet'));
        else expect(at('seccomp')).toBe(names.length - 2);
      }),
    );
  });

  it('never touch the host: nothing is attached or made before the container has its own mounts', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        const plan = tryCompile(make);
        if (plan === undefined) return;
        const names = actions(plan);
        const firstPrivate = names.indexOf('setPropagation');
        const step = plan.steps?.[firstPrivate]?.setPropagation;
        expect(step).toMatchObject({ path: '/', recursive: true });
        for (const it of ['attach', 'mknod', 'symlink', 'pivotRoot']) {
          if (names.includes(it)) expect(names.indexOf(it)).toBeGreaterThan(firstPrivate);
        }
      }),
    );
  });

  it('decode to what was encoded, and print', () => {
    fc.assert(
      fc.property(input, ({ make }) => {
        const plan = tryCompile(make);
        if (plan === undefined) return;
        const bytes = encodePlan(plan);
        expect(Buffer.from(encodePlan(decodePlan(bytes))).equals(bytes)).toBe(true);
        expect(printPlan(plan).split('\n').length).toBeGreaterThan(plan.steps?.length ?? 0);
      }),
    );
  });
});

const seeds = caseNames.filter((it) => !it.startsWith('error-')).map(readCase);

/** Parses and compiles; anything but success or a RuntimeError in one line is a bug. */
function survive(text: string, seed: (typeof seeds)[number]): void {
  try {
    const plan = compileCreate(planInput(text, seed.input));
    decodePlan(encodePlan(plan));
    printPlan(plan);
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    expect(error.message).toMatch(/^create web-1: [^\n]+$/);
    expect(error.message.length).toBeLessThan(4096);
    expect([3, 9]).toContain(error.code);
  }
}

describe('hostile configurations', () => {
  it('are refused in one sentence or compile', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...seeds),
        fc.array(mutation, { minLength: 1, maxLength: 4 }),
        (seed, mutations) => {
          let value = JSON.parse(seed.configText) as Json;
          for (const it of mutations) value = applyMutation(value, it);
          survive(JSON.stringify(value), seed);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('as damaged text are refused in one sentence', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...seeds),
        fc.nat(),
        fc.nat({ max: 20 }),
        fc.string({ maxLength: 20 }),
        (seed, at, length, insert) => {
          const { configText } = seed;
          const from = at % configText.length;
          survive(configText.slice(0, from) + insert + configText.slice(from + length), seed);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('of any JSON at all are refused in one sentence', () => {
    const [seed] = seeds;
    if (seed === undefined) throw new Error('no cases');
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
        survive(text, seed);
      }),
    );
  });

  it('do not reach prototypes', () => {
    const text =
      '{"__proto__":{"root":{"path":"/"}},"constructor":{"prototype":{"polluted":1}},"ociVersion":"1.3.0"}';
    expect(() => parseSpec(text, 'x')).toThrow('create x: config.json: process: is required and missing');
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
});

describe('mount options', () => {
  it('take any text, and what they know never reaches the file system', () => {
    const known = new Set(knownMountOptions());
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.string(), fc.constantFrom(...known, 'constructor', '__proto__'))),
        (options) => {
          const { data, attributes } = parseMountOptions(options);
          expect(data.filter((option) => known.has(option))).toEqual([]);
          expect(data).toEqual(options.filter((option) => option !== '' && !known.has(option)));
          // Set and cleared at once only as the access time mode, which mount_setattr(2) wants so.
          expect(attributes.set & attributes.clear & ~0x70).toBe(0);
        },
      ),
    );
  });
});
