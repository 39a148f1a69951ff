/** containerd's stdio addresses (shim contract, "stdio schemes") as paths the executor opens. */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { StdioPaths } from '../runtime/types.ts';

export interface StdioRequest {
  stdin?: string | null;
  stdout?: string | null;
  stderr?: string | null;
  terminal?: boolean | null;
}

/**
 * Plain paths and `fifo://` are fifos; `file://` is a file that both streams append to (its directories are made).
 * Other schemes: Unimplemented, naming the scheme. With a terminal stderr is not used.
 */
export function stdioPaths(op: string, id: string, request: StdioRequest): StdioPaths {
  const terminal = request.terminal ?? false;
  const stdout = address(op, id, request.stdout ?? '');
  const stderr = terminal ? { path: '', append: false } : address(op, id, request.stderr ?? '');
  const append = stdout.append || stderr.append;
  return {
    stdin: address(op, id, request.stdin ?? '').path,
    stdout: stdout.path,
    stderr: stderr.path,
    terminal,
    append,
  };
}

function address(op: string, id: string, uri: string): { path: string; append: boolean } {
  if (uri === '' || uri.startsWith('/')) return { path: uri, append: false };
  const separator = uri.indexOf('://');
  const scheme = separator < 0 ? '' : uri.slice(0, separator);
  if (scheme === 'fifo') return { path: new URL(uri).pathname, append: false };
  if (scheme === 'file') {
    const path = decodeURIComponent(new URL(uri).pathname);
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    return { path, append: true };
  }
  throw new RuntimeError({
    code: ErrorCode.Unimplemented,
    op,
    id,
    object: `stdio ${uri}`,
    reason: scheme === '' ? 'neither an absolute path nor a URI' : `scheme "${scheme}" is not supported`,
    remedy: 'use a fifo or a file:// path',
  });
}
