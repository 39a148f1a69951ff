/**
 * Runtime options as containerd hands them: containerd.runc.v1.Options (what runc's shim takes), the CreateOptions of
 * the shim before it (ctr, for some of its flags) or runtimeoptions.v1.Options, whose body is the runtime's options table of containerd's configuration as TOML (CRI).
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { google } from '../gen/containerd.js';
import { containerd, runtimeoptions } from '../gen/containerd.js';
import type { CreateOptions } from '../runtime/types.ts';

/** What start and create read from the options. Other keys of the table are another runtime's and passed over. */
export interface ShimOptions extends CreateOptions {
  shimCgroup?: string;
  systemdCgroup?: boolean;
  /** "ttrpc" (default) or "grpc" (containerd 1.7 only). */
  protocol?: string;
}

const tableKeys: Record<string, { key: keyof ShimOptions; type: 'boolean' | 'string' }> = {
  NoPivotRoot: { key: 'noPivot', type: 'boolean' },
  NoNewKeyring: { key: 'noNewKeyring', type: 'boolean' },
  ShimCgroup: { key: 'shimCgroup', type: 'string' },
  SystemdCgroup: { key: 'systemdCgroup', type: 'boolean' },
  Protocol: { key: 'protocol', type: 'string' },
};

/** Decodes an options Any; absent: no options. InvalidArgument names the type or the key. */
export async function shimOptions(
  op: string,
  id: string,
  any: google.protobuf.IAny | null | undefined,
): Promise<ShimOptions> {
  const type = (any?.typeUrl ?? '').replace(/^.*\//, '');
  const value = any?.value ?? new Uint8Array();
  if (type === '') return {};
  const refuse = (reason: string, cause?: unknown): RuntimeError =>
    new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `options of type ${type}`,
      reason,
      cause,
    });
  if (!Object.hasOwn(decoders, type)) throw refuse('unknown type');
  try {
    return (await decoders[type]?.(op, id, value)) ?? {};
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    throw refuse('not such a message', cause);
  }
}

/** The part that create uses; systemd's cgroup driver is refused until there is one. */
export async function createOptions(
  id: string,
  any: google.protobuf.IAny | null | undefined,
): Promise<CreateOptions> {
  const options = await shimOptions('create', id, any);
  if (options.systemdCgroup === true) {
    throw new RuntimeError({
      code: ErrorCode.Unimplemented,
      op: 'create',
      id,
      object: 'option SystemdCgroup',
      reason: 'the systemd cgroup driver is not part of this version',
      remedy: 'set SystemdCgroup = false to use cgroupfs',
    });
  }
  return options;
}

type Decoder = (op: string, id: string, value: Uint8Array) => ShimOptions | Promise<ShimOptions>;

const decoders: Record<string, Decoder> = {
  'containerd.runc.v1.Options': runcOptions,
  'containerd.linux.runc.CreateOptions': linuxOptions,
  'runtimeoptions.v1.Options': tomlOptions,
};

function runcOptions(_op: string, _id: string, value: Uint8Array): ShimOptions {
  const options = containerd.runc.v1.Options.decode(value);
  return {
    noPivot: options.noPivotRoot,
    noNewKeyring: options.noNewKeyring,
    shimCgroup: options.shimCgroup,
    systemdCgroup: options.systemdCgroup,
  };
}

/** `io_uid` and `io_gid` are for pipes between a shim and runc; our processes own their fifos themselves. */
function linuxOptions(_op: string, _id: string, value: Uint8Array): ShimOptions {
  const options = containerd.linux.runc.CreateOptions.decode(value);
  return {
    noPivot: options.noPivotRoot,
    noNewKeyring: options.noNewKeyring,
    shimCgroup: options.shimCgroup,
  };
}

async function tomlOptions(op: string, id: string, value: Uint8Array): Promise<ShimOptions> {
  const { configBody, configPath } = runtimeoptions.v1.Options.decode(value);
  const body = Buffer.from(configBody ?? []).toString('utf8');
  if (body === '' && configPath !== '') return readOptionsFile(op, id, configPath);
  return body === '' ? {} : parseTable(op, id, 'runtime options', body);
}

async function readOptionsFile(op: string, id: string, path: string): Promise<ShimOptions> {
  const { readFile } = await import('node:fs/promises');
  const body = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `options file ${path}`,
      reason: String((cause as Error).message),
      cause,
    });
  });
  return parseTable(op, id, path, body);
}

async function parseTable(op: string, id: string, object: string, body: string): Promise<ShimOptions> {
  const { parse } = await import('smol-toml');
  const invalid = (reason: string, cause?: unknown): RuntimeError =>
    new RuntimeError({ code: ErrorCode.InvalidArgument, op, id, object, reason, cause });
  let table: Record<string, unknown>;
  try {
    table = parse(body);
  } catch (cause) {
    throw invalid(`not valid TOML: ${(cause as Error).message.split('\n')[0]}`, cause);
  }
  const options: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(table)) {
    const known = tableKeys[name];
    if (known === undefined) continue;
    if (typeof value !== known.type) throw invalid(`${name} must be a ${known.type}`);
    options[known.key] = value;
  }
  return options;
}
