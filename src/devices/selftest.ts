/**
 * What a person with the real device should run once: the kernel is asked to do what a container will need, and what it
 * did is undone. Reports and checks only look; this tries.
 *
 *   GPU    every node opens, every library that a container gets can be read and is of the loaded driver
 *   PMEM   memory of the mounted file system or of the character device is mapped with MAP_SYNC
 *   VFIO   a function that is named is checked, bound to vfio-pci, its node opened, and given back
 */
import type { ContainerEdits } from './cdi/types.ts';
import { nvidiaSpec } from './gpu/contribute.ts';
import { probeNvidia } from './gpu/nvidia.ts';
import type { NvmlAnswer } from './gpu/nvml/ask.ts';
import { withNvml } from './gpu/nvml/merge.ts';
import { probeGpus } from './gpu/probe.ts';
import type { Machine } from './model.ts';
import { PCI_DEVICES } from './pci.ts';
import { probePmem } from './pmem/probe.ts';
import { linkName } from './host_tree.ts';

export interface TestResult {
  subject: string;
  test: string;
  ok: boolean;
  /** Why not, or what was found. */
  detail: string;
}

export interface SelftestActions {
  /** Opens for reading and writing, and closes. Throws with `code`. */
  open: (path: string) => void;
  /** Opens for reading, and closes. Throws with `code`. */
  read: (path: string) => void;
  /** Throws with `code` when memory of the path cannot be mapped with MAP_SYNC. */
  mapSync: (path: string, length: number) => void;
  /** Binds a function to vfio-pci; resolves with its node. Rejects with a sentence. */
  bind: (address: string) => Promise<string>;
  /** Gives it back. */
  release: (address: string) => Promise<void>;
  /** Asks NVIDIA's management library. */
  nvml: () => Promise<NvmlAnswer>;
}

const PAGE = 4096;
/** Device-DAX is mapped in pieces of its alignment, 2 MiB if not more. */
const DAX_PAGE = 2 << 20;

/** @param addresses of functions that may be taken from their driver for a moment */
export async function selftest(
  machine: Machine,
  addresses: readonly string[],
  actions: SelftestActions,
): Promise<TestResult[]> {
  const results = [
    ...gpuTests(machine, actions),
    ...(await nvmlTests(machine, actions)),
    ...pmemTests(machine, actions),
  ];
  for (const address of addresses) results.push(...(await vfioTests(machine, address, actions)));
  return results;
}

function attempt(subject: string, test: string, run: () => string | void): TestResult {
  try {
    return { subject, test, ok: true, detail: run() ?? 'ok' };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { subject, test, ok: false, detail: code ?? message };
  }
}

function gpuTests(machine: Machine, { open, read }: SelftestActions): TestResult[] {
  const facts = probeGpus(machine);
  const shared = facts.devices.filter((gpu) => gpu.shared && gpu.nvidia === undefined);
  const drm = shared.flatMap(({ pci, drmNodes }) =>
    drmNodes.map((path) => attempt(`GPU ${pci.address}`, `open ${path}`, () => open(path))),
  );
  const spec = nvidiaSpec(facts, machine.host);
  if (facts.nvidia === undefined || spec === undefined) return drm;
  const all: ContainerEdits[] = [
    spec.containerEdits ?? {},
    ...spec.devices.map((each) => each.containerEdits),
  ];
  const nodes = new Set(all.flatMap(({ deviceNodes = [] }) => deviceNodes.map(({ path }) => path)));
  const files = new Set(all.flatMap(({ mounts = [] }) => mounts.map(({ hostPath }) => hostPath)));
  const driver = `NVIDIA driver ${facts.nvidia.version}`;
  const libraries = [...files].filter((path) => path.includes('.so.'));
  return [
    ...drm,
    ...[...nodes].map((path) => attempt(driver, `open ${path}`, () => open(path))),
    attempt(driver, 'libraries', () => {
      if (!libraries.some((path) => /\/libcuda\.so\./.test(path)))
        throw new Error('no libcuda.so of this version');
      for (const path of libraries) read(path);
      return `${libraries.length} files`;
    }),
  ];
}

/** What it says must fit what the kernel's driver says of the same GPUs. */
async function nvmlTests({ host }: Machine, { nvml }: SelftestActions): Promise<TestResult[]> {
  const driver = probeNvidia(host);
  if (driver === undefined) return [];
  const { unavailable } = withNvml(driver, await nvml());
  const detail = unavailable ?? 'ok';
  return [
    { subject: `NVIDIA driver ${driver.version}`, test: 'NVML', ok: unavailable === undefined, detail },
  ];
}

function pmemTests(machine: Machine, { mapSync }: SelftestActions): TestResult[] {
  return probePmem(machine).flatMap((device) => {
    const subject = `PMEM ${device.id}`;
    const test = (path: string, length: number): TestResult =>
      attempt(subject, `MAP_SYNC ${path}`, () => mapSync(path, length));
    if (device.mode === 'devdax' && device.node !== '') return [test(device.node, DAX_PAGE)];
    return device.mounts.filter(({ dax }) => dax).map(({ path }) => test(path, PAGE));
  });
}

/** The driver afterwards must be the one before: that is what giving back means. */
async function vfioTests(
  { host }: Machine,
  address: string,
  { bind, open, release }: SelftestActions,
): Promise<TestResult[]> {
  const subject = `function ${address}`;
  const driver = (): string => linkName(host, `${PCI_DEVICES}/${address}/driver`);
  const before = driver();
  const results: TestResult[] = [];
  try {
    const node = await bind(address);
    results.push({
      subject,
      test: 'bind to vfio-pci',
      ok: true,
      detail: `${before === '' ? 'no driver' : before} before`,
    });
    results.push(attempt(subject, `open ${node}`, () => open(node)));
  } catch (error) {
    results.push({ subject, test: 'bind to vfio-pci', ok: false, detail: (error as Error).message });
    return results;
  }
  await release(address);
  const after = driver();
  const restored = after === before;
  const detail = `${after === '' ? 'no driver' : after}${restored ? '' : ` instead of ${before === '' ? 'none' : before}`}`;
  results.push({ subject, test: 'give back', ok: restored, detail });
  return results;
}
