/** The engine's configuration: a TOML file ($BULKHEAD_CONFIG, default /etc/bulkhead/config.toml) and the instance's root. */
import { existsSync, readFileSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Level } from '../base/log.ts';
import { defaultVmConfig, parseVmConfig, type VmConfig } from '../sandbox/vm/config.ts';

export interface EngineConfig {
  /** State root of the instance: sockets, locks, records. */
  root: string;
  logLevel: Level;
  /** Milliseconds without any monitor after which the engine ends; 0: never. */
  idleTimeoutMs: number;
  /** Milliseconds after which a monitor ends that has neither containers nor connections. */
  abandonedMs: number;
  /** Protocol told to containerd when the runtime options name none. */
  protocol: 'ttrpc' | 'grpc';
  /** Directories of CDI specs, lowest priority first; undefined: those of the CDI specification. */
  cdiSpecDirs?: string[];
  vm: VmConfig;
}

export const DEFAULT_ROOT = '/run/bulkhead';
const DEFAULT_IDLE_MS = 5 * 60 * 1000;
const DEFAULT_ABANDONED_MS = 60 * 1000;
const levels: readonly Level[] = ['debug', 'info', 'warning', 'error'];

/** Reads the configuration. InvalidArgument names the file and the key. */
export async function loadConfig(env: NodeJS.ProcessEnv): Promise<EngineConfig> {
  const config: EngineConfig = {
    root: env['BULKHEAD_ROOT'] || DEFAULT_ROOT,
    logLevel: 'info',
    idleTimeoutMs: DEFAULT_IDLE_MS,
    abandonedMs: DEFAULT_ABANDONED_MS,
    protocol: 'ttrpc',
    vm: defaultVmConfig,
  };
  const path = env['BULKHEAD_CONFIG'] || '/etc/bulkhead/config.toml';
  if (!existsSync(path)) return config;
  const { parse } = await import('smol-toml');
  let table: Record<string, unknown>;
  try {
    table = parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw invalid(path, (cause as Error).message.split('\n')[0] ?? '', cause);
  }
  const engine = (table['engine'] ?? {}) as Record<string, unknown>;
  for (const [key, value] of Object.entries(engine)) applyKey(config, path, key, value);
  config.vm = parseVmConfig(path, (table['vm'] ?? {}) as Record<string, unknown>);
  return config;
}

function applyKey(config: EngineConfig, path: string, key: string, value: unknown): void {
  if (key === 'log_level' && levels.includes(value as Level)) config.logLevel = value as Level;
  else if (key === 'idle_timeout_seconds' && typeof value === 'number' && value >= 0)
    config.idleTimeoutMs = value * 1000;
  else if (key === 'abandoned_timeout_seconds' && typeof value === 'number' && value > 0)
    config.abandonedMs = value * 1000;
  else if (key === 'protocol' && (value === 'ttrpc' || value === 'grpc')) config.protocol = value;
  else if (key === 'cdi_spec_dirs' && isListOfPaths(value)) config.cdiSpecDirs = value;
  else throw invalid(path, `engine.${key}: unknown key or bad value ${JSON.stringify(value)}`);
}

function isListOfPaths(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((path) => typeof path === 'string' && path.startsWith('/'));
}

function invalid(path: string, reason: string, cause?: unknown): RuntimeError {
  return new RuntimeError({ code: ErrorCode.InvalidArgument, op: 'configure', object: path, reason, cause });
}
