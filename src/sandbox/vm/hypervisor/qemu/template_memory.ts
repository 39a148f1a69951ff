/**
 * Templates' memory in this process: sealed memory files that all clones map privately.
 *
 * QEMU opens memory for writing, also where it maps it privately, and one machine must not be able to change what all
 * later ones begin as: so it never gets the file on disk but a copy that is sealed against writing (F_SEAL_WRITE), made
 * once. The copy is also where damage is found.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import type { Addon } from '../../../../native/index.ts';
import type { TemplateImage } from '../hypervisor.ts';
import { TemplateError } from './template_image.ts';

export type MemoryAddon = Pick<Addon, 'memfd' | 'sealMemfd' | 'copySparse'>;

export class TemplateMemory {
  readonly #addon: MemoryAddon;
  /** By path of the file, with the checksum of what was in it: another process may build a template anew. */
  readonly #sealed = new Map<string, { sum: bigint; fd: Promise<number> }>();

  constructor(addon: MemoryAddon) {
    this.#addon = addon;
  }

  /** The sealed descriptor, borrowed; loaded at the first call. Rejects with TemplateError when the file is damaged. */
  sealed(image: TemplateImage): Promise<number> {
    const known = this.#sealed.get(image.memory);
    if (known?.sum === image.memorySum) return known.fd;
    this.forget(image.memory);
    const loading = { sum: image.memorySum, fd: this.#load(image) };
    this.#sealed.set(image.memory, loading);
    loading.fd.catch(() => {
      if (this.#sealed.get(image.memory) === loading) this.#sealed.delete(image.memory);
    });
    return loading.fd;
  }

  /** Machines that have it mapped keep it; it is loaded anew for the next. */
  forget(path: string): void {
    const known = this.#sealed.get(path);
    this.#sealed.delete(path);
    known?.fd.then(closeSync, () => {});
  }

  /** A memory file of its own for one machine, which others can map; `ready` when the template's data is in it. */
  async copy(image: TemplateImage, name: string): Promise<{ fd: number; ready: Promise<void> }> {
    const source = await this.sealed(image);
    const fd = this.#addon.memfd(name, fstatSync(source).size);
    return { fd, ready: this.#addon.copySparse(source, fd, false).then(() => {}) };
  }

  async #load(image: TemplateImage): Promise<number> {
    let source: number | undefined;
    let target: number | undefined;
    try {
      source = openSync(image.memory, 'r');
      target = this.#addon.memfd('bulkhead template', fstatSync(source).size);
      const sum = await this.#addon.copySparse(source, target, true);
      if (sum !== image.memorySum) throw new TemplateError(image.memory, 'its memory is damaged');
      this.#addon.sealMemfd(target, true);
      const sealed = target;
      target = undefined;
      return sealed;
    } catch (error) {
      throw error instanceof TemplateError
        ? error
        : new TemplateError(image.memory, (error as Error).message, error);
    } finally {
      if (source !== undefined) closeSync(source);
      if (target !== undefined) closeSync(target);
    }
  }
}
