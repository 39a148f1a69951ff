/**
 * Requests through our ttrpc server beside runc's shim (Go), by the same client, in alternation:
 *
 *   tools/private.sh node tools/run.mjs bench/ttrpc.ts [REQUESTS]
 *
 * Both answer Connect for a task they do not know. Prints requests per second and latency at 1 and 32 calls in
 * flight, and the server's CPU time a request. The client is JavaScript too, and the bound at 32.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { containerd } from '../src/gen/containerd.js';
import { connectTtrpc, Router, serveTtrpc, streamTransport, type TtrpcClient } from '../src/rpc/index.ts';
import { eventually } from '../test/e2e/lib/exec.ts';
import { root } from '../test/e2e/lib/paths.ts';
import { startRuncShim, taskService } from '../test/e2e/lib/runc_shim.ts';

const { ConnectRequest, ConnectResponse } = containerd.task.v3;
const SERVICE = taskService('1.6');
const ROUNDS = 3;
const TICK_US = 10_000;

function serve(path: string): void {
  const router = new Router();
  router.register({
    service: SERVICE,
    method: 'Connect',
    request: ConnectRequest,
    response: ConnectResponse,
    handler: () => ({ shimPid: process.pid, version: 'v2' }),
  });
  createServer((socket) => serveTtrpc(router, streamTransport(socket), { name: 'bench' })).listen(path);
}

/** User and system time of a process so far, in microseconds, to the tick (proc_pid_stat(5)). */
function cpuTime(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

interface Figures {
  server: string;
  inFlight: number;
  requestsPerSecond: number;
  p50us: number;
  p99us: number;
  serverCpuUs: number;
}

async function measure(
  server: string,
  client: TtrpcClient,
  pid: number,
  inFlight: number,
  requests: number,
): Promise<Figures> {
  const payload = ConnectRequest.encode({ id: 'bench'.padEnd(400, '-') }).finish();
  const latencies: number[] = [];
  const worker = async (): Promise<void> => {
    for (let sent = 0; sent < requests / inFlight; sent++) {
      const before = performance.now();
      await client.call(SERVICE, 'Connect', payload);
      latencies.push((performance.now() - before) * 1000);
    }
  };
  const cpu = cpuTime(pid);
  const start = performance.now();
  await Promise.all(Array.from({ length: inFlight }, worker));
  const seconds = (performance.now() - start) / 1000;
  latencies.sort((a, b) => a - b);
  const at = (share: number): number => Math.round(latencies[Math.floor(latencies.length * share)] ?? 0);
  return {
    server,
    inFlight,
    requestsPerSecond: Math.round(latencies.length / seconds),
    p50us: at(0.5),
    p99us: at(0.99),
    serverCpuUs: Math.round(((cpuTime(pid) - cpu) / latencies.length) * 10) / 10,
  };
}

async function main(requests: number): Promise<void> {
  const dir = mkdtempSync(join(process.env.BULKHEAD_TEST_DIR ?? tmpdir(), 'ttrpc-'));
  const path = join(dir, 'ours.sock');
  const child = spawn(
    process.execPath,
    [join(root, 'tools/run.mjs'), join(root, 'bench/ttrpc.ts'), '--serve', path],
    {
      stdio: 'inherit',
    },
  );
  const shim = await startRuncShim('1.6', dir);
  const ours = await eventually('our server', () => connectTtrpc(path).catch(() => undefined));
  const runc = await connectTtrpc(shim.path);
  const pidOf = async (client: TtrpcClient): Promise<number> =>
    ConnectResponse.decode(await client.call(SERVICE, 'Connect', ConnectRequest.encode({ id: 'x' }).finish()))
      .shimPid;
  const figures: Figures[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const inFlight of [1, 32]) {
      figures.push(await measure('bulkhead', ours, await pidOf(ours), inFlight, requests));
      figures.push(await measure('runc', runc, await pidOf(runc), inFlight, requests));
    }
  }
  console.table(figures);
  mkdirSync(join(root, 'bench/results'), { recursive: true });
  writeFileSync(
    join(root, 'bench/results/ttrpc.json'),
    `${JSON.stringify({ node: process.version, figures }, null, 2)}\n`,
  );
  ours.close();
  runc.close();
  await shim.stop();
  child.kill();
  rmSync(dir, { recursive: true, force: true });
}

const [first, second] = process.argv.slice(2);
if (first === '--serve') serve(second ?? '');
else await main(Number(first ?? 20_000));
