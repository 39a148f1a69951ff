/** What every verb needs: where state is kept, which walls there are, where log lines go. */
import type { Logger } from '../base/log.ts';
import type { DeviceRequest } from '../sandbox/devices.ts';
import type { BackendRegistry } from '../sandbox/registry.ts';
import type { ParsedAhead } from './bundle.ts';
import type { ContainerRecord, StateStore } from '../state/index.ts';

export interface RuntimeContext {
  store: StateStore;
  backends: BackendRegistry;
  log: Logger;
  /** Directories of CDI spec files, lowest priority first; default: those of the CDI specification. */
  cdiSpecDirs?: readonly string[] | undefined;
  /** Reads attributes of devices in another process, which a dying device may keep. */
  readDevices?: DeviceRequest['read'];
  /** Saves what a monitor would tell a new engine again only after the answer; for who lives longer than a request. */
  savesLater?: boolean | undefined;
  /** Configurations of containers that are about to be created. */
  parsedAhead?: ParsedAhead | undefined;
  /** Milliseconds since the epoch; tests inject their own. */
  now: () => number;
}

/**
 * Saves a start, an exit or the end of an exec. When the engine ends before that was done, a monitor tells the next one
 * of them again (recover.ts), so that nobody has to wait for the disk; on the command line there is no monitor.
 * @param soon for an exit: it has to be on disk before the executor forgets the process
 */
export function saveProgress(ctx: RuntimeContext, record: ContainerRecord, soon = false): void {
  if (ctx.savesLater !== true) {
    ctx.store.save(record);
    return;
  }
  const onError = (error: unknown): void =>
    ctx.log.error('state not saved', { id: record.id ?? '', error: String(error) });
  ctx.store.saveLater(record, onError, soon);
}
