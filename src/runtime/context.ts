/** What every verb needs: where state is kept, which walls there are, where log lines go. */
import type { Logger } from '../base/log.ts';
import type { BackendRegistry } from '../sandbox/registry.ts';
import type { StateStore } from '../state/index.ts';

export interface RuntimeContext {
  store: StateStore;
  backends: BackendRegistry;
  log: Logger;
  /** Directories of CDI spec files, lowest priority first; default: those of the CDI specification. */
  cdiSpecDirs?: readonly string[] | undefined;
  /** Milliseconds since the epoch; tests inject their own. */
  now: () => number;
}
