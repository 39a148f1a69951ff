import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { containerd } from '../../../src/gen/containerd.js';
import { connectTtrpc } from '../../../src/rpc/index.ts';
import type { Version } from './containerd.ts';
import { run } from './exec.ts';
import { peers } from './paths.ts';

/** containerd 2's shim has version 3 only. */
export const taskService = (version: Version): string =>
  `containerd.task.${version === '2' ? 'v3' : 'v2'}.Task`;

export interface RuncShim {
  /** Of its ttrpc socket. */
  path: string;
  stop(): Promise<void>;
}

/** runc's shim of one containerd, started as containerd starts it but without any; its bundle goes below `scratch`. */
export async function startRuncShim(version: Version, scratch: string): Promise<RuncShim> {
  const binaries = version === '1.6' ? '/usr/bin' : join(peers, `containerd-${version}`, 'usr/bin');
  const dir = mkdtempSync(join(scratch, 'shim-'));
  writeFileSync(join(dir, 'config.json'), '{"ociVersion":"1.0.2"}');
  // In place of the fifo: the shim opens it for writing and would wait for a reader.
  writeFileSync(join(dir, 'log'), '');
  const address = join(dir, 'containerd.sock');
  const args = [
    '-namespace',
    'contract',
    '-address',
    address,
    '-publish-binary',
    '/bin/true',
    '-id',
    'contract',
  ];
  const started = await run(join(binaries, 'containerd-shim-runc-v2'), [...args, 'start'], {
    cwd: dir,
    env: { PATH: process.env.PATH, TTRPC_ADDRESS: `${address}.ttrpc` },
    stdin: '',
  });
  if (started.code !== 0) throw new Error(`containerd-shim-runc-v2 start: ${started.stderr}`);
  const printed = started.stdout.trim();
  const url = printed.startsWith('{') ? (JSON.parse(printed) as { address: string }).address : printed;
  const path = url.replace('unix://', '');
  const stop = async (): Promise<void> => {
    const client = await connectTtrpc(path);
    const payload = containerd.task.v3.ShutdownRequest.encode({ id: 'contract', now: true }).finish();
    // The shim exits in the midst of its answer or before it.
    await client.call(taskService(version), 'Shutdown', payload).catch(() => {});
    client.close();
    rmSync(path, { force: true });
  };
  return { path, stop };
}
