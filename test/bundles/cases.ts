/**
 * Reads the cases of this folder: `<case>/config.json` and, where the default does not do, `<case>/input.json` with
 * what the compiler takes besides (src/plan/inputs.ts; bytes as text or hexadecimal). A case with `exec` in its input
 * is an exec in the container that config.json describes.
 */
import { readdirSync, readFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Process } from '../../src/oci/types.ts';
import { parseProcess, parseSpec } from '../../src/oci/validate/index.ts';
import { compileCreate } from '../../src/plan/compile.ts';
import { compileExec } from '../../src/plan/exec.ts';
import type { HostFacts, LaunchPlan, PlanInput, Step } from '../../src/plan/inputs.ts';

const folder = import.meta.dirname;

export const caseNames = readdirSync(folder, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name)
  .sort();

interface CaseInput {
  rootfs?: { mounts: PlanInput['rootfs']['mounts'] };
  cgroup?: { outer: CaseStep[]; view: PlanInput['cgroup']['view'] };
  host?: Partial<HostFacts>;
  seccomp?: { program: string; flags: number };
  exec?: { execId: string; process: Process };
  gate?: PlanInput['gate'];
  noPivot?: boolean;
  noNewKeyring?: boolean;
  preserveFds?: number;
  listenFds?: number;
  home?: string;
}

/** A step whose file data is text. */
type CaseStep = Omit<Step, 'writeFile'> & { writeFile?: { path: string; data: string } };

const defaultHost: HostFacts = {
  capLastCap: 40,
  kernelRelease: '6.18.0',
  canRaiseLimits: false,
  apparmor: false,
  selinux: false,
};

export const caseId = 'web-1';
export const caseBundle = '/run/c/bundles/web-1';

export function readCase(name: string): { configText: string; input: CaseInput } {
  const file = join(folder, name, 'input.json');
  const input = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as CaseInput) : {};
  return { configText: readFileSync(join(folder, name, 'config.json'), 'utf8'), input };
}

/** What the compiler gets for a case. Throws what parseSpec throws. */
export function planInput(configText: string, input: CaseInput): PlanInput {
  const { seccomp, cgroup, host, rootfs, gate, exec: _exec, ...rest } = input;
  return {
    id: caseId,
    bundle: caseBundle,
    spec: parseSpec(configText, caseId),
    rootfs: { path: `${caseBundle}/rootfs`, mounts: rootfs?.mounts ?? [] },
    cgroup: {
      outer: (cgroup?.outer ?? []).map(readStep),
      view: cgroup?.view ?? { mode: 'v1', hierarchies: [] },
    },
    seccomp: seccomp === undefined ? undefined : readSeccomp(seccomp),
    host: { ...defaultHost, ...host },
    gate: gate ?? { kind: 'sync' },
    ...rest,
  };
}

/** The plan of a case and what was warned about. Throws what the validation or the compiler throws. */
export function compileCase(name: string): { plan: LaunchPlan; warnings: string[] } {
  const { configText, input } = readCase(name);
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const created = planInput(configText, input);
  if (input.exec === undefined) return { plan: compileCreate(created, warn), warnings };
  const { spec, cgroup, host, seccomp } = created;
  const plan = compileExec(
    {
      id: caseId,
      execId: input.exec.execId,
      process: parseProcess(JSON.stringify(input.exec.process), caseId),
      target: {
        pid: 4711,
        startTime: 123456,
        namespaces: (spec.linux?.namespaces ?? []).map(({ type }) => type),
      },
      cgroup,
      host,
      seccomp,
      linux: spec.linux,
      gate: input.gate,
    },
    warn,
  );
  return { plan, warnings };
}

function readStep(step: CaseStep): Step {
  const { writeFile, ...rest } = step;
  if (writeFile === undefined) return rest;
  return { writeFile: { path: writeFile.path, data: new TextEncoder().encode(writeFile.data) } };
}

function readSeccomp({ program, flags }: { program: string; flags: number }): NonNullable<PlanInput['seccomp']> {
  return { program: new Uint8Array(Buffer.from(program, 'hex')), flags };
}
