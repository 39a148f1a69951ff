/** The table [vm] of the engine's configuration file, for the verbs that prepare guests. */
import { existsSync, readFileSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { defaultVmConfig, parseVmConfig } from '../sandbox/vm/config.ts';
import type { VmConfig } from '../sandbox/vm/config.ts';

/** InvalidArgument names the file, and what is wrong with it. */
export async function readVmConfig(env: NodeJS.ProcessEnv): Promise<VmConfig> {
  const path = env['BULKHEAD_CONFIG'] || '/etc/bulkhead/config.toml';
  if (!existsSync(path)) return { ...defaultVmConfig };
  const { parse } = await import('smol-toml');
  try {
    return parseVmConfig(path, (parse(readFileSync(path, 'utf8'))['vm'] ?? {}) as Record<string, unknown>);
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    const reason = (cause as Error).message.split('\n')[0] ?? '';
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'configure',
      object: path,
      reason,
      cause,
    });
  }
}
