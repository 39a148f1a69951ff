/** The namespace wall: what runc does, and PCI functions for programs that drive them themselves. */
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import { HostBackend, type BackendHost } from '../host_backend.ts';
import { ownerOf, type DevicePassing } from '../passing.ts';
import { withFunctions } from './functions.ts';

export class NamespaceBackend extends HostBackend {
  readonly wall = 'namespace';
  readonly #facts: BackendHost['facts'];
  readonly #passing: DevicePassing | undefined;

  /** @param passing absent: for plans that nobody carries out */
  constructor(host: BackendHost, passing?: DevicePassing) {
    super(host);
    this.#facts = host.facts;
    this.#passing = passing;
  }

  override async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    const passing = this.#passing;
    if (passing === undefined || (input.functions ?? []).length === 0) return super.create(record, input);
    return super.create(record, await withFunctions(record, input, { passing, facts: this.#facts() }));
  }

  override async destroy(record: ContainerRecord): Promise<void> {
    await super.destroy(record);
    await this.#passing?.release(ownerOf(record));
  }
}
