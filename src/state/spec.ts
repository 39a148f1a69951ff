/** The OCI configuration a container was created from, out of its record. */
import type { Spec } from '../oci/types.ts';
import type { ContainerRecord } from './schema.ts';

const parsed = new WeakMap<ContainerRecord, Spec>();

/** Parsed once per record; it was validated when the container was created. */
export function specOf(record: ContainerRecord): Spec {
  let spec = parsed.get(record);
  if (spec === undefined) {
    spec = JSON.parse(Buffer.from(record.spec ?? []).toString('utf8')) as Spec;
    parsed.set(record, spec);
  }
  return spec;
}
