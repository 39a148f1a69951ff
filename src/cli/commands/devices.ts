/** `bulkhead devices`: what this node can pass to which wall, why not, and what would change that. */
import { closeSync, constants, mkdirSync, openSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { readRegistry } from '../../devices/cdi/registry.ts';
import { generateSpecs } from '../../devices/generate.ts';
import { askNvml } from '../../devices/gpu/nvml/ask.ts';
import { needsNvml } from '../../devices/gpu/nvml/merge.ts';
import { hostRoots, hostTree } from '../../devices/host_tree.ts';
import { readClaims } from '../../devices/journal.ts';
import { readMachine } from '../../devices/machine.ts';
import type { Machine } from '../../devices/model.ts';
import { readAhead } from '../../devices/read_ahead.ts';
import { cdiReport, deviceReport, type DeviceReport } from '../../devices/report.ts';
import { selftest, type SelftestActions } from '../../devices/selftest.ts';
import { addon } from '../../native/index.ts';
import { passingOf, readDevices } from '../load.ts';
import { passingWalls } from '../../sandbox/devices.ts';
import { claimsDirectory } from '../../sandbox/passing.ts';
import { selftestOwner } from '../../sandbox/passing_host.ts';
import type { Command } from '../command.ts';
import { pmemFlags, pmemFormat } from '../pmem_format.ts';
import { specDirFlag, specDirs } from '../device_flags.ts';
import type { Arguments } from '../flags.ts';
import { usageError } from '../flags.ts';
import type { Session } from '../session.ts';

/** "selftest" and functions: no host has more in one group. */
const MAX_OPERANDS = 33;

export const devices: Command = {
  operands: '[cdi generate|cdi list|pmem format PATH|selftest [ADDRESS...]]',
  count: [0, MAX_OPERANDS],
  flags: [
    { name: 'json', kind: 'boolean', usage: 'as JSON' },
    specDirFlag,
    { name: 'host-root', kind: 'string', usage: 'directory with another machine’s sys, proc and dev' },
    { name: 'kind', kind: 'string', usage: 'cdi generate: only this kind (nvidia.com/gpu)' },
    { name: 'output', alias: 'o', kind: 'string', usage: 'cdi generate: file to write; needs --kind' },
    ...pmemFlags,
  ],
  async run(session, args) {
    if (args.operands[0] === 'pmem' && args.operands[1] === 'format') return pmemFormat(session, args);
    const verb = args.operands.join(' ');
    if (verb === 'cdi list') return listCdi(session, args);
    const here = args.string('host-root') === undefined;
    const { host, stuck } = await readAhead(
      hostTree(rootsOf(session, args)),
      here ? readDevices() : undefined,
    );
    const claims = readClaims(host, claimsDirectory(session.store.paths.root));
    const machine = await completed({ ...readMachine(host), claims, stuck }, args);
    if (args.operands[0] === 'selftest') return runSelftest(session, args, machine);
    if (verb === 'cdi generate') return generate(session, args, machine);
    const registry = await readRegistry(specDirs(session, args));
    if (verb !== '') throw usageError('devices', `no such command: ${verb}`);
    const report = deviceReport({ machine, registry, walls: passingWalls });
    session.print(args.boolean('json') ? `${JSON.stringify(report, null, 2)}\n` : table(report));
    return 0;
  },
};

async function listCdi(session: Session, args: Arguments): Promise<number> {
  const registry = await readRegistry(specDirs(session, args));
  if (args.boolean('json')) {
    session.print(`${JSON.stringify(cdiReport(registry), null, 2)}\n`);
    return 0;
  }
  session.print(registry.names.map((name) => `${name}\n`).join(''));
  for (const [path, faults] of registry.errors) session.log.warning(faults.join('; '), { path });
  return 0;
}

/** Beside this bundle. */
const probe = { program: join(import.meta.dirname, 'nvml.cjs') };

/** With what only NVIDIA's management library knows, of this host. */
async function completed(machine: Machine, args: Arguments): Promise<Machine> {
  if (args.string('host-root') !== undefined || !needsNvml(machine)) return machine;
  return { ...machine, nvml: await askNvml(probe) };
}

/** 1 when something that was tried did not work; 0 also when there was nothing to try. */
async function runSelftest(session: Session, args: Arguments, machine: Machine): Promise<number> {
  if (args.string('host-root') !== undefined)
    throw usageError('devices', 'selftest tries this host, not another');
  const results = await selftest(machine, args.operands.slice(1), selftestActions(session));
  if (args.boolean('json')) session.print(`${JSON.stringify(results, null, 2)}\n`);
  else {
    const lines = results.map(
      ({ ok, subject, test, detail }) => `${ok ? 'ok    ' : 'FAILED'}  ${subject}: ${test}: ${detail}\n`,
    );
    session.print(lines.length === 0 ? 'nothing to try on this host\n' : lines.join(''));
  }
  return results.every(({ ok }) => ok) ? 0 : 1;
}

function selftestActions(session: Session): SelftestActions {
  const passing = passingOf(session);
  // Its claims are given back by whoever comes next when this process was killed.
  const owner = selftestOwner(session.pid);
  return {
    open: (path) => closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK)),
    read: (path) => closeSync(openSync(path, 'r')),
    mapSync: (path, length) => addon().mapSync(path, length),
    bind: async (address) => {
      const request = { id: 'selftest', owner, wall: 'vm' as const, addresses: [address] };
      const [nodes] = (await passing.open(request)).nodes;
      return nodes?.group ?? nodes?.device ?? '';
    },
    release: () => passing.release(owner),
    nvml: () => askNvml(probe),
  };
}

function rootsOf(session: Session, args: Arguments): typeof hostRoots {
  const given = args.string('host-root');
  if (given === undefined) return hostRoots;
  const root = resolve(session.cwd, given);
  return { sys: `${root}/sys`, proc: `${root}/proc`, dev: `${root}/dev`, root };
}

function generate(session: Session, args: Arguments, machine: Machine): number {
  const kind = args.string('kind');
  const output = args.string('output');
  const specs = generateSpecs(machine).filter((spec) => kind === undefined || spec.kind === kind);
  if (output !== undefined && kind === undefined) throw usageError('devices', '--output needs --kind');
  if (kind !== undefined && specs.length === 0) {
    throw new RuntimeError({
      code: ErrorCode.NotFound,
      op: 'devices',
      object: `kind ${kind}`,
      reason: 'this host has no such device that a container can be given',
      remedy: 'see why with: bulkhead devices',
    });
  }
  const text = specs.map((spec) => `${JSON.stringify(spec, null, 2)}\n`).join('');
  if (output === undefined) session.print(text);
  else replaceFile(resolve(session.cwd, output), text);
  return 0;
}

/** Whoever reads the directory meanwhile sees the old file or the new one. JSON is YAML: either name serves. */
function replaceFile(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.new`;
  writeFileSync(temporary, text, { mode: 0o644 });
  renameSync(temporary, path);
}

const headings = ['DEVICE', 'WHAT', 'NAMESPACE', 'VM', 'SENTRY'];

function table(report: DeviceReport): string {
  const { iommu } = report;
  const rows = report.devices.map(({ id, name, walls }) => [
    id,
    name,
    ...[walls.namespace, walls.vm, walls.sentry].map((verdict) =>
      verdict.ok ? (verdict.as ?? 'yes') : 'no',
    ),
  ]);
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('   ')
      .trimEnd();
  const reasons = report.devices.flatMap(({ walls }) =>
    Object.values(walls).flatMap(({ why = [] }) =>
      why.map(({ sentence, fix }) => `  ${sentence}\n    fix: ${fix}`),
    ),
  );
  const notes = report.devices.flatMap(({ id, notes: list = [] }) => list.map((note) => `  ${id}: ${note}`));
  if (report.nvmlUnavailable !== undefined)
    notes.push(`  NVML: no MIG UUIDs and topology: ${report.nvmlUnavailable}`);
  const errors = Object.values(report.cdi.errors).flatMap((faults) => faults.map((fault) => `  ${fault}`));
  const section = (title: string, lines: string[]): string[] =>
    lines.length === 0 ? [] : ['', title, ...lines];
  return `${[
    `IOMMU ${iommu.on ? 'on' : 'off'}, interrupt remapping ${iommu.interruptRemapping}, vfio-pci ${iommu.vfioPci ? 'loaded' : 'not loaded'}, iommufd ${iommu.iommufd ? 'there' : 'not there'}`,
    '',
    ...(rows.length === 0 ? ['no devices that could be passed'] : [line(headings), ...rows.map(line)]),
    ...section('why not', [...new Set(reasons)]),
    ...section('to know', notes),
    ...section(
      'CDI devices',
      report.cdi.devices.map((name) => `  ${name}`),
    ),
    ...section('CDI specs that are wrong', errors),
  ].join('\n')}\n`;
}
