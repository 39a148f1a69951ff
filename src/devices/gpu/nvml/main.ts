/**
 * Asks NVIDIA's management library and prints what it says as JSON: node nvml.cjs [LIBRARY]
 *
 * A process of its own, for one question: a vendor's library may crash, hang, or keep devices open (decision 005). Whatever
 * goes wrong is {"error": "…"} and exit status 1, or nothing at all; ask.ts makes a sentence of either.
 */
import { createRequire } from 'node:module';
import type { NvmlFacts, NvmlGpu, NvmlLink, NvmlMig } from './facts.ts';

/** What is used of ffi-napi. */
interface Ffi {
  DynamicLibrary(path: string): { get(symbol: string): unknown };
  ForeignFunction(
    symbol: unknown,
    result: string,
    parameters: readonly string[],
  ): (...given: unknown[]) => unknown;
}

/** nvmlReturn_t (nvml.h). */
const SUCCESS = 0;
const NOT_SUPPORTED = 3;
const NOT_FOUND = 6;

const TEXT = 96;
/** sizeof(nvmlPciInfo_t), and where its busId is. */
const PCI_INFO = 68;
const BUS_ID = 36;
/** MIG devices of one GPU, and GPUs of one machine: more are not believed. */
const MOST = 64;

class NvmlError extends Error {
  readonly code: number;
  constructor(message: string, code: number) {
    super(message);
    this.code = code;
  }
}

/** Handles are pointers, passed as numbers of their size. */
type Handle = string;

class Nvml {
  readonly #ffi: Ffi;
  readonly #library: ReturnType<Ffi['DynamicLibrary']>;

  constructor(ffi: Ffi, path: string) {
    this.#ffi = ffi;
    this.#library = ffi.DynamicLibrary(path);
  }

  /** @throws NvmlError for anything but success */
  call(name: string, parameters: readonly string[] = [], given: readonly unknown[] = []): void {
    const run = this.#ffi.ForeignFunction(this.#library.get(name), 'int', parameters);
    const code = Number(run(...given));
    if (code !== SUCCESS) throw new NvmlError(`${name}: ${this.#words(code)}`, code);
  }

  #words(code: number): string {
    const describe = this.#ffi.ForeignFunction(this.#library.get('nvmlErrorString'), 'string', ['int']);
    return `${String(describe(code))} (${code})`;
  }

  number(name: string, handle: Handle): number {
    const out = Buffer.alloc(4);
    this.call(name, ['uint64', 'pointer'], [handle, out]);
    return out.readUInt32LE();
  }

  text(name: string, handle?: Handle): string {
    const out = Buffer.alloc(TEXT);
    const own: [string[], unknown[]] = handle === undefined ? [[], []] : [['uint64'], [handle]];
    this.call(name, [...own[0], 'pointer', 'uint'], [...own[1], out, TEXT]);
    return textIn(out, 0);
  }

  handle(name: string, parameters: readonly string[], given: readonly unknown[]): Handle {
    const out = Buffer.alloc(8);
    this.call(name, [...parameters, 'pointer'], [...given, out]);
    return out.readBigUInt64LE().toString();
  }
}

function textIn(buffer: Buffer, at: number): string {
  const end = buffer.indexOf(0, at);
  return buffer.toString('latin1', at, end < 0 ? buffer.length : end);
}

/** undefined for what this device has not. */
function ifThere<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    if (error instanceof NvmlError && [NOT_SUPPORTED, NOT_FOUND].includes(error.code)) return undefined;
    throw error;
  }
}

function ask(nvml: Nvml): NvmlFacts {
  nvml.call('nvmlInit_v2');
  try {
    const counted = Buffer.alloc(4);
    nvml.call('nvmlDeviceGetCount_v2', ['pointer'], [counted]);
    const handles = Array.from({ length: Math.min(counted.readUInt32LE(), MOST) }, (_, index) =>
      nvml.handle('nvmlDeviceGetHandleByIndex_v2', ['uint'], [index]),
    );
    const gpus = handles.map((handle) => gpu(nvml, handle));
    return { driver: nvml.text('nvmlSystemGetDriverVersion'), gpus, links: links(nvml, handles, gpus) };
  } finally {
    nvml.call('nvmlShutdown');
  }
}

function gpu(nvml: Nvml, handle: Handle): NvmlGpu {
  const pci = Buffer.alloc(PCI_INFO);
  nvml.call('nvmlDeviceGetPciInfo_v3', ['uint64', 'pointer'], [handle, pci]);
  const most = ifThere(() => nvml.number('nvmlDeviceGetMaxMigDeviceCount', handle)) ?? 0;
  return {
    bus: textIn(pci, BUS_ID),
    uuid: nvml.text('nvmlDeviceGetUUID', handle),
    mig: Array.from({ length: Math.min(most, MOST) }, (_, index) => mig(nvml, handle, index)).filter(
      (each) => each !== undefined,
    ),
  };
}

function mig(nvml: Nvml, parent: Handle, index: number): NvmlMig | undefined {
  const handle = ifThere(() =>
    nvml.handle('nvmlDeviceGetMigDeviceHandleByIndex', ['uint64', 'uint'], [parent, index]),
  );
  if (handle === undefined) return undefined;
  return {
    index,
    uuid: nvml.text('nvmlDeviceGetUUID', handle),
    gpuInstance: nvml.number('nvmlDeviceGetGpuInstanceId', handle),
    computeInstance: nvml.number('nvmlDeviceGetComputeInstanceId', handle),
  };
}

/** How far two GPUs are apart, each pair once. */
function links(nvml: Nvml, handles: readonly Handle[], gpus: readonly NvmlGpu[]): NvmlLink[] {
  return handles.flatMap((one, first) =>
    handles.slice(first + 1).flatMap((other, offset): NvmlLink[] => {
      const out = Buffer.alloc(4);
      const level = ifThere(() => {
        nvml.call('nvmlDeviceGetTopologyCommonAncestor', ['uint64', 'uint64', 'pointer'], [one, other, out]);
        return out.readUInt32LE();
      });
      const pair: [string, string] = [gpus[first]?.bus ?? '', gpus[first + 1 + offset]?.bus ?? ''];
      return level === undefined ? [] : [{ pair, level }];
    }),
  );
}

function main(library: string): number {
  try {
    const ffi = createRequire(import.meta.filename)('ffi-napi') as Ffi;
    process.stdout.write(JSON.stringify(ask(new Nvml(ffi, library))));
    return 0;
  } catch (error) {
    const { message = String(error), code } = error as NodeJS.ErrnoException;
    const reason = code === 'MODULE_NOT_FOUND' ? 'ffi-napi is not installed' : message;
    process.stdout.write(JSON.stringify({ error: reason.split('\n')[0] ?? '' }));
    return 1;
  }
}

process.exitCode = main(process.argv[2] ?? 'libnvidia-ml.so.1');
