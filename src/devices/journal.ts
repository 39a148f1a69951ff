/**
 * Changes to the host on behalf of a container, undone when it goes and after any crash:
 *
 *   preflight → claim (a file says what is about to change, and from what) → bind → open → launch
 *
 * One file a device, made exclusively: it is the journal and the claim in one. Undoing reads the device's state anew,
 * so it does not matter how far a change came, nor how often it is undone.
 *
 * Bindings do not outlive a boot. A claim of an earlier boot is dropped.
 */
import { asRuntimeError, ErrorCode, RuntimeError } from '../base/errors.ts';
import { linkName, type HostTree } from './host_tree.ts';
import type { JournalFiles } from './journal_files.ts';
import type { FunctionClaim } from './model.ts';
import { PCI_DEVICES } from './pci.ts';

/** Binding a PCI function to another driver. */
export interface DriverChange {
  kind: 'pci-driver';
  /** "0000:41:00.0". */
  address: string;
  to: string;
  /** Empty: none was bound. */
  from: string;
  /** driver_override before; empty: none. */
  override: string;
}

export interface Claim {
  version: 1;
  owner: string;
  bootId: string;
  change: DriverChange;
}

/** Writes to a file of the kernel; rejects with `errno` "ETIMEDOUT" when the kernel does not come back in time. */
export type KernelWrite = (path: string, data: string) => Promise<void>;

export interface JournalOptions {
  host: HostTree;
  files: JournalFiles;
  write: KernelWrite;
}

/** driver_override reads so while it is unset; a newline clears it, an empty write changes nothing (Linux 6.12). */
const NO_OVERRIDE = '(null)';
const CLEAR = '\n';
/** Owner of what nobody waits for any more. No container's: those have a slash. */
export const LATE = 'late';
const BOOT_ID = '/proc/sys/kernel/random/boot_id';

export class DeviceJournal {
  readonly #host: HostTree;
  readonly #files: JournalFiles;
  readonly #write: KernelWrite;

  constructor({ host, files, write }: JournalOptions) {
    this.#host = host;
    this.#files = files;
    this.#write = write;
  }

  /**
   * Claims the functions for `owner` and binds them to `driver`, in order. When one fails the others are undone.
   * FailedPrecondition for a function that another owner has.
   */
  async bind(owner: string, addresses: readonly string[], driver: string): Promise<void> {
    const claimed: Claim[] = [];
    try {
      for (const address of addresses) {
        const claim = this.#claim(owner, address, driver);
        claimed.push(claim);
        await this.#apply(claim.change);
      }
    } catch (error) {
      const late = isLate(error) ? claimed.pop() : undefined;
      // The first error is the one to tell; a claim stays for the next start when this fails too.
      if (late !== undefined) await this.#undoLate(late).catch(() => {});
      for (const claim of [...claimed].reverse()) await this.#undo(claim).catch(() => {});
      throw error;
    }
  }

  /** Undoes what `owner` has changed, the last first. Idempotent. Rejects with the first error, having tried all. */
  async release(owner: string): Promise<void> {
    await this.#undoAll(this.claims().filter((claim) => claim.owner === owner));
  }

  /** At start: undoes the claims of owners that are gone. Resolves with their names. */
  async recover(isAlive: (owner: string) => boolean): Promise<string[]> {
    this.#dropEarlier();
    const orphans = this.claims().filter(({ owner }) => !isAlive(owner));
    await this.#undoAll(orphans);
    return [...new Set(orphans.map(({ owner }) => owner))];
  }

  /** Claims of this boot, by name. */
  claims(): Claim[] {
    return this.#files.names().flatMap((name): Claim[] => this.#current(name) ?? []);
  }

  /** Claims of earlier boots, and files that are none. */
  #dropEarlier(): void {
    for (const name of this.#files.names()) {
      if (this.#current(name) === undefined) this.#files.remove(name);
    }
  }

  #current(name: string): [Claim] | undefined {
    const claim = readClaim(this.#files.read(name));
    return claim?.bootId === this.#bootId() ? [claim] : undefined;
  }

  #claim(owner: string, address: string, to: string): Claim {
    const claim: Claim = {
      version: 1,
      owner,
      bootId: this.#bootId(),
      change: {
        kind: 'pci-driver',
        address,
        to,
        from: this.#driver(address),
        override: this.#override(address),
      },
    };
    const name = fileName(address);
    if (this.#files.create(name, JSON.stringify(claim))) return claim;
    const other = readClaim(this.#files.read(name));
    if (other !== undefined && other.bootId !== claim.bootId) {
      this.#files.remove(name);
      if (this.#files.create(name, JSON.stringify(claim))) return claim;
    }
    throw failure(owner, address, `device is in use by ${other?.owner ?? 'another container'}`);
  }

  async #apply({ address, to, from }: DriverChange): Promise<void> {
    if (from === to) return;
    await this.#write(`${PCI_DEVICES}/${address}/driver_override`, to);
    if (from !== '') await this.#write(`${PCI_DEVICES}/${address}/driver/unbind`, address);
    await this.#write('/sys/bus/pci/drivers_probe', address);
    // An override that names a driver which is not loaded is accepted, and leaves the device without one.
    if (this.#driver(address) !== to) {
      throw failure('', address, `driver ${to} did not take it`, `modprobe ${to}`);
    }
  }

  async #undoAll(claims: readonly Claim[]): Promise<void> {
    const faults: unknown[] = [];
    for (const claim of [...claims].reverse()) {
      await this.#undo(claim).catch((error: unknown) => {
        faults.push(error);
      });
    }
    if (faults.length > 0) throw asRuntimeError(faults[0], 'release');
  }

  /**
   * A driver that was told to let go may do so when nobody waits any more. The claim becomes nobody's, so that the next
   * recovery sees what has become of the function, and no clean-up of the container before that drops it.
   */
  async #undoLate(claim: Claim): Promise<void> {
    const late = { ...claim, owner: LATE };
    this.#files.replace(fileName(claim.change.address), JSON.stringify(late));
    await this.#restore(late);
  }

  async #undo(claim: Claim): Promise<void> {
    await this.#restore(claim);
    this.#files.remove(fileName(claim.change.address));
  }

  async #restore({ owner, change }: Claim): Promise<void> {
    const { address, to, from, override } = change;
    const at = `${PCI_DEVICES}/${address}`;
    // A function that is gone (unplugged, or a virtual one whose card was reset) has nothing to be restored.
    if (this.#host.exists(at)) {
      if (from !== to && this.#driver(address) === to) {
        await this.#write(`${at}/driver/unbind`, address).catch((error: unknown) => {
          // Another writer, who had waited for the last user too, was before us.
          if (this.#driver(address) === to) throw error;
        });
      }
      // Written without a look at it, which could wait for the device's lock in this process.
      if (from !== to) {
        await this.#write(`${at}/driver_override`, override === '' ? CLEAR : override);
      }
      // A driver that someone else has bound since is theirs.
      if (from !== '' && this.#driver(address) === '') {
        await this.#write('/sys/bus/pci/drivers_probe', address);
        if (this.#driver(address) !== from) {
          throw failure(owner, address, `driver ${from} did not take it back`, `modprobe ${from}`);
        }
      }
    }
  }

  #driver(address: string): string {
    return linkName(this.#host, `${PCI_DEVICES}/${address}/driver`);
  }

  #override(address: string): string {
    const text = this.#host.text(`${PCI_DEVICES}/${address}/driver_override`) ?? '';
    return text === NO_OVERRIDE ? '' : text;
  }

  #bootId(): string {
    return this.#host.text(BOOT_ID) ?? '';
  }
}

/** Whose functions the claims in a directory of the host are. Only looks: what a crash has left stays. */
export function readClaims(host: HostTree, dir: string): FunctionClaim[] {
  const bootId = host.text(BOOT_ID) ?? '';
  return host
    .entries(dir)
    .filter((name) => name.endsWith('.json'))
    .flatMap((name) => readClaim(host.text(`${dir}/${name}`)) ?? [])
    .filter((claim) => claim.bootId === bootId)
    .map(({ owner, change: { address } }) => ({ owner, address }));
}

/** The kernel had not come back when the time was up, and has not been made to forget what it was told. */
function isLate(error: unknown): boolean {
  return error instanceof RuntimeError && error.errno === 'ETIMEDOUT';
}

function fileName(address: string): string {
  return `pci-${address}.json`;
}

/** undefined for what is not a claim: a file that a power cut left empty. */
function readClaim(text: string | undefined): Claim | undefined {
  try {
    const claim = JSON.parse(text ?? '') as Claim;
    return claim.version === 1 ? claim : undefined;
  } catch {
    return undefined;
  }
}

function failure(owner: string, address: string, reason: string, remedy?: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'bind',
    id: owner === '' ? undefined : owner,
    object: `device ${address}`,
    reason,
    remedy,
  });
}
