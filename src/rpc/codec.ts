/** What a generated protobuf class offers: the two halves that a method needs. */

export interface Decoder<T> {
  decode(bytes: Uint8Array): T;
}
export interface Encoder<T> {
  encode(message: T): { finish(): Uint8Array };
}

/** Header fields of a call: lower-case keys, each with its values in the order received. */
export type Metadata = ReadonlyMap<string, readonly string[]>;

export const noMetadata: Metadata = new Map();

/** Metadata from pairs, as ttrpc carries them: repeated keys collect their values. */
export function metadataOf(pairs: Iterable<readonly [string, string]>): Metadata {
  const metadata = new Map<string, string[]>();
  for (const [key, value] of pairs) {
    const name = key.toLowerCase();
    const values = metadata.get(name);
    if (values === undefined) metadata.set(name, [value]);
    else values.push(value);
  }
  return metadata;
}
