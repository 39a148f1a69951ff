/** The probe against libraries that the test compiles: no machine here has NVIDIA's. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generateSpecs } from '../../generate.ts';
import { readMachine } from '../../machine.ts';
import type { Machine } from '../../model.ts';
import { deviceReport } from '../../report.ts';
import { CdiRegistry } from '../../cdi/registry.ts';
import { FakeTree } from '../../testing/fake_tree.ts';
import { gpuFunction, nvidiaFiles, pciFiles, type FakeGpu } from '../../testing/machines.ts';
import { askNvml, type NvmlAnswer } from './ask.ts';
import { decodeNvml, type NvmlFacts } from './facts.ts';
import { needsNvml, withNvml } from './merge.ts';

const root = join(import.meta.dirname, '../../../..');
const program = join(root, 'dist/nvml.cjs');
/** Of a process that starts on a busy machine. */
const PATIENT = 60_000;
const dir = mkdtempSync(join(tmpdir(), 'bh-nvml-'));
afterAll(() => rmSync(dir, { recursive: true }));

function library(fault = ''): string {
  const path = join(dir, `libnvml${fault}.so`);
  if (existsSync(path)) return path;
  const source = join(import.meta.dirname, 'testing/scripted_nvml.c');
  const flags = fault === '' ? [] : [`-DFAULT_${fault}`];
  execFileSync('gcc', ['-shared', '-fPIC', '-w', ...flags, '-o', path, source]);
  return path;
}

const expected: NvmlFacts = {
  driver: '570.86.15',
  gpus: [
    {
      bus: '00000000:41:00.0',
      uuid: 'GPU-00000000-aaaa-bbbb-cccc-dddddddddddd',
      mig: [
        { index: 0, uuid: 'MIG-11111110-aaaa-bbbb-cccc-dddddddddddd', gpuInstance: 2, computeInstance: 0 },
        { index: 2, uuid: 'MIG-11111112-aaaa-bbbb-cccc-dddddddddddd', gpuInstance: 1, computeInstance: 0 },
      ],
    },
    { bus: '00000000:42:00.0', uuid: 'GPU-00000001-aaaa-bbbb-cccc-dddddddddddd', mig: [] },
  ],
  links: [{ pair: ['00000000:41:00.0', '00000000:42:00.0'], level: 30 }],
};

describe('the probe', () => {
  beforeAll(() => {
    // Built by make; without it there is nothing to test.
    expect(existsSync(program)).toBe(true);
  });

  it(
    'says what the library says',
    async () => {
      expect(await askNvml({ program, library: library(), deadlineMs: PATIENT })).toEqual({
        facts: expected,
      });
    },
    2 * PATIENT,
  );

  it.each([
    ['MISMATCH', 'nvmlInit_v2: Driver/library version mismatch (18)'],
    ['CRASH', 'its process was ended by SIGSEGV'],
  ])(
    'survives a library with fault %s',
    async (fault, reason) => {
      expect(await askNvml({ program, library: library(fault), deadlineMs: PATIENT })).toEqual({
        unavailable: reason,
      });
    },
    2 * PATIENT,
  );

  it(
    'does not wait for a library that hangs',
    async () => {
      const asked = askNvml({ program, library: library('HANG'), deadlineMs: 1500 });
      expect(await asked).toEqual({ unavailable: 'no answer within 1.5 s' });
    },
    2 * PATIENT,
  );

  it.each([
    ['a missing symbol', () => library('SYMBOL'), /nvmlDeviceGetCount_v2/],
    ['a missing library', () => join(dir, 'no.so'), /no\.so/],
    ['what is no library', () => program, /nvml\.cjs/],
    ['an answer that is none', () => library('GARBAGE'), /^an answer that is none: uuid: /],
  ])(
    'says so: %s',
    async (_what, path, reason) => {
      const answer = await askNvml({ program, library: path(), deadlineMs: PATIENT });
      expect(answer).toEqual({ unavailable: expect.stringMatching(reason) });
    },
    2 * PATIENT,
  );

  it(
    'says that it has no foreign-function library, or is not there itself',
    async () => {
      const alone = join(dir, 'nvml.cjs');
      copyFileSync(program, alone);
      expect(await askNvml({ program: alone, deadlineMs: PATIENT })).toEqual({
        unavailable: 'ffi-napi is not installed',
      });
      expect(await askNvml({ program: join(dir, 'no.cjs'), deadlineMs: PATIENT })).toEqual({
        unavailable: 'its process failed: 1',
      });
      const silent = join(dir, 'silent.cjs');
      writeFileSync(silent, '');
      expect(await askNvml({ program: silent, deadlineMs: PATIENT })).toEqual({
        unavailable: expect.stringContaining('an answer that is none: '),
      });
    },
    2 * PATIENT,
  );
});

describe('an answer', () => {
  const good = JSON.stringify(expected);
  it.each([
    ['null', 'answer: no object'],
    ['[]', 'answer: no object'],
    [good.replace('570.86.15', '570; rm'), 'driver: "570; rm"'],
    [good.replace('00000000:41:00.0', '../../x'), 'bus: "../../x"'],
    [good.replace('GPU-00000000', 'GPU'.repeat(40)), 'uuid: '],
    [good.replace('"index":0', '"index":-1'), 'index: -1'],
    [good.replace('"level":30', '"level":"30"'), 'level: "30"'],
    [good.replace(',"00000000:42:00.0"]', ']'), 'pair: not two'],
    [good.replace('"gpus":[', '"gpus":5,"x":['), 'gpus: no list'],
  ])('is read strictly: %.60s', (text, reason) => {
    expect(() => decodeNvml(text)).toThrow(reason);
  });
  it('is read back', () => {
    expect(decodeNvml(good)).toEqual(expected);
  });
});

describe('a machine', () => {
  const gpus: FakeGpu[] = [
    { address: '0000:41:00.0', minor: 0, mig: { 1: [0], 2: [0] } },
    { address: '0000:42:00.0', minor: 1 },
  ];
  const machineOf = (of: readonly FakeGpu[], nvml?: NvmlAnswer): Machine => {
    const files = { ...pciFiles(of.map(gpuFunction)), ...nvidiaFiles('570.86.15', of) };
    return { ...readMachine(new FakeTree(files), 'x64'), ...(nvml === undefined ? {} : { nvml }) };
  };
  const namesOf = (machine: Machine): string[] =>
    generateSpecs(machine).flatMap(({ kind, devices }) =>
      kind === 'nvidia.com/gpu' ? devices.map(({ name }) => name) : [],
    );
  const reportOf = (machine: Machine): ReturnType<typeof deviceReport> =>
    deviceReport({ machine, registry: new CdiRegistry([], new Map()), walls: ['namespace', 'vm'] });

  it('names instances as NVIDIA does, and says how GPUs are connected', () => {
    const machine = machineOf(gpus, { facts: expected });
    expect(namesOf(machine)).toEqual([
      '0:2',
      'MIG-11111112-aaaa-bbbb-cccc-dddddddddddd',
      '0:0',
      'MIG-11111110-aaaa-bbbb-cccc-dddddddddddd',
      '1',
      'GPU-00000001-aaaa-bbbb-cccc-dddddddddddd',
      'all',
    ]);
    const notes = reportOf(machine).devices.map((device) => device.notes ?? []);
    expect(notes[0]).toContain('with 0000:42:00.0: below one host bridge');
    expect(notes[1]).toContain('with 0000:41:00.0: below one host bridge');
  });

  it('goes on without', () => {
    const machine = machineOf(gpus, { unavailable: 'no answer within 10 s' });
    expect(namesOf(machine).slice(0, 2)).toEqual(['0:0', '0:1']);
    expect(reportOf(machine).nvmlUnavailable).toBe('no answer within 10 s');
    expect(reportOf(machineOf(gpus))).not.toHaveProperty('nvmlUnavailable');
  });

  it('believes no other driver’s answer, and no part of one', () => {
    const other = machineOf(gpus, { facts: { ...expected, driver: '550.54.14' } });
    expect(reportOf(other).nvmlUnavailable).toBe('it is of driver 550.54.14, and 570.86.15 is loaded');
    const [first] = expected.gpus;
    const some = { ...expected, gpus: [{ ...first!, mig: first!.mig.slice(1) }] };
    expect(namesOf(machineOf(gpus, { facts: some })).slice(0, 2)).toEqual(['0:0', '0:1']);
  });

  it('is asked only where /proc leaves something open', () => {
    expect(needsNvml(machineOf(gpus))).toBe(true);
    expect(needsNvml(machineOf(gpus.slice(0, 1)))).toBe(true);
    expect(needsNvml(machineOf(gpus.slice(1)))).toBe(false);
    expect(needsNvml({ host: new FakeTree({}) })).toBe(false);
    const driver = { version: '1.2', gpus: [], majors: {} };
    expect(withNvml(driver, undefined)).toEqual({ driver, unavailable: undefined });
  });
});
