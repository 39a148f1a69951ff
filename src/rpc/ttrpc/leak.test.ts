/** An engine serves the same connections for months: 100,000 calls must leave the heap as it was. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { containerd } from '../../gen/containerd.js';
import type { CallContext } from '../context.ts';
import { memoryTransports } from '../memory.ts';
import { Router } from '../router.ts';
import { TtrpcClient } from './client.ts';
import { serveTtrpc } from './server.ts';

const { StateRequest, StateResponse } = containerd.task.v3;
const SERVICE = 'containerd.task.v3.Task';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function heapUsed(): number {
  collect();
  collect();
  const { heapUsed: heap, arrayBuffers } = process.memoryUsage();
  return heap + arrayBuffers;
}

describe('a long-lived connection', () => {
  it('holds nothing of the calls it served', async () => {
    const router = new Router();
    const method = { service: SERVICE, request: StateRequest, response: StateResponse };
    router.register({ ...method, method: 'State', handler: (_ctx, { id }) => ({ id, bundle: '/b' }) });
    router.register({
      ...method,
      method: 'Wait',
      handler: (ctx: CallContext) =>
        new Promise<never>((_resolve, reject) =>
          ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason as Error), { once: true }),
        ),
    });
    const [near, far] = memoryTransports();
    const connection = serveTtrpc(router, far, { name: 'leak' });
    const client = new TtrpcClient(near);
    const metadata = { 'containerd-namespace-ttrpc': 'k8s.io' };

    const round = async (calls: number): Promise<void> => {
      for (let done = 0; done < calls; done += 100) {
        const batch = Array.from({ length: 100 }, (_, index) => {
          const payload = StateRequest.encode({ id: `c${done + index}` }).finish();
          // One in ten fails, one in a hundred runs into its deadline.
          if (index === 0) return client.call(SERVICE, 'Wait', payload, { timeoutMs: 1 });
          if (index % 10 === 0) return client.call(SERVICE, 'Fly', payload, { metadata });
          return client.call(SERVICE, 'State', payload, { timeoutMs: 60_000, metadata });
        });
        await Promise.allSettled(batch);
      }
    };

    await round(20_000);
    const before = heapUsed();
    await round(100_000);
    // The last deadlines pass on the server a moment after the client gave up.
    await expect.poll(() => connection.activeCalls).toBe(0);
    expect(heapUsed() - before).toBeLessThan(1 << 20);
    client.close();
  }, 120_000);
});
