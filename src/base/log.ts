/**
 * Log lines in logfmt, as containerd writes them (`time=… level=… msg=…`), or JSON as `runc --log-format json` does.
 * Values are escaped; a line is one write.
 */
import { printable } from './text.ts';

export type Level = 'debug' | 'info' | 'warning' | 'error';
export type Fields = Record<string, string | number | boolean | undefined>;
export type Format = 'text' | 'json';

const order: Record<Level, number> = { debug: 0, info: 1, warning: 2, error: 3 };

export interface Logger {
  log(level: Level, msg: string, fields?: Fields): void;
  debug(msg: string, fields?: Fields): void;
  info(msg: string, fields?: Fields): void;
  warning(msg: string, fields?: Fields): void;
  error(msg: string, fields?: Fields): void;
  /** The same sink with fields added to every line. */
  with(fields: Fields): Logger;
}

/** A logger that hands finished lines (with the newline) to `write`. Lines below `level` are dropped. */
export function createLogger(
  write: (line: string) => void,
  level: Level = 'info',
  format: Format = 'text',
  base: Fields = {},
): Logger {
  const log = (at: Level, msg: string, fields: Fields = {}): void => {
    if (order[at] < order[level]) return;
    const record = { time: new Date().toISOString(), level: at, msg, ...base, ...fields };
    write(`${printable(format === 'json' ? JSON.stringify(record) : logfmt(record))}\n`);
  };
  return {
    log,
    debug: (msg, fields) => log('debug', msg, fields),
    info: (msg, fields) => log('info', msg, fields),
    warning: (msg, fields) => log('warning', msg, fields),
    error: (msg, fields) => log('error', msg, fields),
    with: (fields) => createLogger(write, level, format, { ...base, ...fields }),
  };
}

export const silentLogger: Logger = createLogger(() => {}, 'error');

function logfmt(record: Fields): string {
  return Object.entries(record)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${quote(String(value))}`)
    .join(' ');
}

function quote(value: string): string {
  return /^[\w./:@+-]+$/.test(value) ? value : JSON.stringify(value);
}
