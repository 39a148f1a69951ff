import { bulkhead } from '../gen/bulkhead.js';
import type { PropagationKind } from '../oci/mount_options.ts';

const { Propagation } = bulkhead.plan.v1;

const values = {
  private: Propagation.PROPAGATION_PRIVATE,
  slave: Propagation.PROPAGATION_SLAVE,
  shared: Propagation.PROPAGATION_SHARED,
  unbindable: Propagation.PROPAGATION_UNBINDABLE,
} as const;

export function propagationValue(kind: PropagationKind | undefined): bulkhead.plan.v1.Propagation {
  return kind === undefined ? Propagation.PROPAGATION_UNCHANGED : values[kind];
}
