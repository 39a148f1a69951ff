/** A tree whose PCI files do what the kernel's do when they are written (drivers/base/bus.c, drivers/pci/pci-driver.c). */
import { PCI_DEVICES } from '../pci.ts';
import { FakeTree, type FakeFiles } from './fake_tree.ts';

export class FakeKernel extends FakeTree {
  readonly writes: string[] = [];
  /** Which driver takes a function by itself. */
  readonly #natural: Record<string, string>;

  constructor(files: FakeFiles, natural: Record<string, string>) {
    super(files);
    this.#natural = natural;
  }

  async write(path: string, data: string): Promise<void> {
    this.writes.push(`${path.replace(`${PCI_DEVICES}/`, '')} < ${data.trim()}`);
    const [, address = '', file = ''] = /^\/sys\/bus\/pci\/devices\/([^/]+)\/(.+)$/.exec(path) ?? [];
    if (path === '/sys/bus/pci/drivers_probe') this.#probe(data);
    else if (file === 'driver_override') this.files.set(path, data === '\n' ? '(null)' : data);
    else if (file === 'driver/unbind' && this.link(`${PCI_DEVICES}/${address}/driver`) !== undefined) {
      this.files.delete(`${PCI_DEVICES}/${address}/driver`);
    } else throw Object.assign(new Error(path), { code: 'ENOENT' });
  }

  #probe(address: string): void {
    const override = this.text(`${PCI_DEVICES}/${address}/driver_override`) ?? '(null)';
    const driver = override === '(null)' ? (this.#natural[address] ?? '') : override;
    if (driver === '' || !this.exists(`/sys/bus/pci/drivers/${driver}`)) return;
    this.files.set(`${PCI_DEVICES}/${address}/driver`, { link: `../../../bus/pci/drivers/${driver}` });
  }

  /** Everything that can be seen, to compare. */
  snapshot(): string {
    return JSON.stringify([...this.files].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}
