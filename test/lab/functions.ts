/** The PCI functions of the lab's machine that tests pass on, and what the host has of them. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { eventually } from '../e2e/lib/exec.ts';

const PCI = '/sys/bus/pci/devices';

interface Expected {
  /** Driver of the host. */
  driver: string;
  /** vendor, device and class as sysfs has them. */
  ids: string;
}

/** A virtual function of a network card, an NVMe disk, and a display, which stands in for a GPU. */
export const expected = {
  vf: { driver: 'igbvf', ids: '0x8086 0x10ca 0x020000' },
  nvme: { driver: 'nvme', ids: '0x1b36 0x0010 0x010802' },
  display: { driver: 'bochs-drm', ids: '0x1234 0x1111 0x038000' },
} as const satisfies Record<string, Expected>;

export type Name = keyof typeof expected;
export type PerFunction = Record<Name, string>;
const names = Object.keys(expected) as Name[];
const each = (of: (name: Name) => string): PerFunction => ({
  vf: of('vf'),
  nvme: of('nvme'),
  display: of('display'),
});

const text = (path: string): string => readFileSync(path, 'utf8').trim();
const idsOf = (address: string): string =>
  ['vendor', 'device', 'class'].map((name) => text(join(PCI, address, name))).join(' ');
/** Of the function with these ids; empty: there is none. */
export const functionOf = (ids: string): string =>
  readdirSync(PCI).find((address) => idsOf(address) === ids) ?? '';
/** "none" without one. */
export const driverOf = (address: string): string => {
  const link = join(PCI, address, 'driver');
  return existsSync(link) ? basename(readlinkSync(link)) : 'none';
};

export const sh = (script: string): string =>
  execFileSync('bash', ['-euc', script], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

export const hostDrivers = each((name) => expected[name].driver);
export const allVfio = each(() => 'vfio-pci');
export const allIds = names.map((name) => expected[name].ids);

export class Functions {
  readonly addresses: PerFunction;

  private constructor(addresses: PerFunction) {
    this.addresses = addresses;
  }

  /** Makes two virtual functions, and waits until every function has its driver. */
  static async find(): Promise<Functions> {
    const physical = readdirSync(PCI).find((address) => driverOf(address) === 'igb') ?? 'none';
    writeFileSync(join(PCI, physical, 'sriov_numvfs'), '2');
    const found: Partial<PerFunction> = {};
    for (const name of names) {
      const { ids, driver } = expected[name];
      found[name] = await eventually(`a function ${name}`, () =>
        readdirSync(PCI).find((address) => idsOf(address) === ids && driverOf(address) === driver),
      );
    }
    return new Functions(each((name) => found[name] ?? ''));
  }

  drivers(): PerFunction {
    return each((name) => driverOf(this.addresses[name]));
  }

  /** Flags of `ctr run` that ask for all of them. */
  annotation(): string[] {
    const devices = names.map((name) => `bulkhead.io/vfio=${this.addresses[name]}`);
    return ['--annotation', `cdi.k8s.io/lab=${devices.join(',')}`];
  }

  /** "10=0000:01:10.0" of each, as vfio_probe is told. */
  probeArguments(): string[] {
    const groupOf = (address: string): string => basename(readlinkSync(join(PCI, address, 'iommu_group')));
    return Object.values(this.addresses).map((address) => `${groupOf(address)}=${address}`);
  }

  /** What vfio_probe says of each. */
  probeLines(): string[] {
    return names.map(
      (name) => `${this.addresses[name]} ${expected[name].ids.split(' ').slice(0, 2).join(' ')}`,
    );
  }

  /** The block device that the host's driver makes of the NVMe function. */
  async disk(): Promise<string> {
    const nvme = join(PCI, this.addresses.nvme, 'nvme');
    const controller = (): string | undefined => (existsSync(nvme) ? readdirSync(nvme)[0] : undefined);
    const path = (): string => `/dev/${controller() ?? ''}n1`;
    await eventually('the disk', () => controller() !== undefined && existsSync(path()));
    return path();
  }
}
