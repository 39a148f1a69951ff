/** The namespace wall: what runc does, and PCI functions for programs that drive them themselves. */
import { addon, type Addon } from '../../native/index.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import type { Executor } from '../executor.ts';
import { HostBackend, type BackendHost } from '../host_backend.ts';
import { ownerOf, type DevicePassing } from '../passing.ts';
import { withFunctions } from './functions.ts';
import { prepareGpu } from './gpu.ts';

export class NamespaceBackend extends HostBackend {
  readonly wall = 'namespace';
  readonly #facts: BackendHost['facts'];
  readonly #warn: BackendHost['warn'];
  readonly #addon: () => Addon;
  readonly #passing: DevicePassing | undefined;

  /** @param passing absent: for plans that nobody carries out */
  constructor(host: BackendHost, passing?: DevicePassing, native: () => Addon = addon) {
    super(host);
    this.#facts = host.facts;
    this.#warn = host.warn;
    this.#addon = native;
    this.#passing = passing;
  }

  override async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    const passing = this.#passing;
    if (passing === undefined) return super.create(record, input);
    const { functions = [] } = input;
    await passing.checkNodes(record.id ?? '', ownerOf(record), input.spec);
    const withAll =
      functions.length === 0 ? input : await withFunctions(record, input, { passing, facts: this.#facts() });
    return super.create(record, await this.#withGpu(record, withAll, passing));
  }

  /** What a GPU's driver needs in the root file system comes before the hooks that look at it. */
  async #withGpu(record: ContainerRecord, input: CreateInput, passing: DevicePassing): Promise<CreateInput> {
    const tools = { dir: passing.filesDirectory, addon: this.#addon };
    const gpu = await prepareGpu(record.id ?? '', input.spec, tools);
    if (gpu === undefined) return input;
    const warn = (message: string): void => this.#warn(record.id ?? '', message);
    return {
      ...input,
      spec: gpu.spec,
      waitsForRoot: true,
      runCreateHooks: async (pid) => {
        gpu.prepareRoot(`/proc/${pid}/root${record.rootfs ?? ''}`, warn);
        await input.runCreateHooks(pid);
      },
    };
  }

  override async destroy(record: ContainerRecord, executor?: Executor): Promise<void> {
    await super.destroy(record);
    if (executor === undefined) this.#passing?.releaseLater(ownerOf(record));
    else await this.#passing?.release(ownerOf(record));
  }
}
