/**
 * stdin of a shim's `start`: an Any of runtime options (containerd 1.6 to 2.2) or BootstrapParams (2.3 and later). The
 * two share their wire types; field 1 is a type URL in one and the instance's id in the other.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { containerd, google } from '../gen/containerd.js';

export interface Bootstrap {
  options: google.protobuf.IAny | undefined;
  containerdVersion: string;
}

/** InvalidArgument when the bytes are neither. */
export function parseBootstrap(stdin: Uint8Array, id: string, namespace: string): Bootstrap {
  if (stdin.length === 0) return { options: undefined, containerdVersion: '' };
  try {
    const any = google.protobuf.Any.decode(stdin);
    const isParams = any.typeUrl === id && Buffer.from(any.value ?? []).toString('utf8') === namespace;
    if (!isParams) return { options: any, containerdVersion: '' };
    const params = containerd.runtime.bootstrap.v1.BootstrapParams.decode(stdin);
    const known = (params.extensions ?? []).map((extension) => extension.value ?? undefined);
    return {
      options: known.find((extension) => /\bOptions$/.test(extension?.typeUrl ?? '')),
      containerdVersion: params.containerdVersion ?? '',
    };
  } catch (cause) {
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'start',
      id,
      object: 'standard input',
      reason: 'neither runtime options nor bootstrap parameters',
      cause,
    });
  }
}
