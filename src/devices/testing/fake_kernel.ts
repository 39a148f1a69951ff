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
      const group = this.#groupNode(address);
      if (group !== undefined) this.files.delete(group);
    } else throw Object.assign(new Error(path), { code: 'ENOENT' });
  }

  #probe(address: string): void {
    const override = this.text(`${PCI_DEVICES}/${address}/driver_override`) ?? '(null)';
    const driver = override === '(null)' ? (this.#natural[address] ?? '') : override;
    if (driver === '' || !this.exists(`/sys/bus/pci/drivers/${driver}`)) return;
    this.files.set(`${PCI_DEVICES}/${address}/driver`, { link: `../../../bus/pci/drivers/${driver}` });
    const group = this.#groupNode(address);
    if (driver === 'vfio-pci' && group !== undefined && this.makesNodes) {
      this.files.set(group, { node: `c 245:${group.split('/').at(-1)}` });
    }
  }

  /** False: nobody makes nodes in /dev. */
  makesNodes = true;

  /** devtmpfs has a node for a group as long as a function of it is bound to vfio-pci (here: the last one). */
  #groupNode(address: string): string | undefined {
    const group = this.link(`${PCI_DEVICES}/${address}/iommu_group`)?.split('/').at(-1);
    return group === undefined ? undefined : `/dev/vfio/${group}`;
  }

  /** Everything that can be seen, to compare. */
  snapshot(): string {
    return JSON.stringify([...this.files].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}
