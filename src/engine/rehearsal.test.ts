import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Router } from '../rpc/router.ts';
import { bindTaskService, type TaskPeer } from './bind.ts';
import { rehearse } from './rehearsal.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'bh-rehearsal-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function bound(): Router<TaskPeer> {
  const router = new Router<TaskPeer>();
  bindTaskService(router);
  return router;
}

it('plays whole lives and leaves nothing', async () => {
  await rehearse({ router: bound(), root: join(dir, 'r'), quietMs: () => 1000 }, 3);
  expect(readdirSync(dir)).toEqual([]);
});

it('waits while there is real work', async () => {
  let busy = 5;
  await rehearse({ router: bound(), root: join(dir, 'r'), quietMs: () => (busy-- > 0 ? 0 : 1000) }, 1);
  expect(busy).toBeLessThanOrEqual(0);
});

it('says what went wrong, and leaves nothing then either', async () => {
  const rehearsal = rehearse({ router: new Router(), root: join(dir, 'r'), quietMs: () => 1000 }, 1);
  await expect(rehearsal).rejects.toThrow(/containerd.task.v2.Task/);
  expect(existsSync(join(dir, 'r'))).toBe(false);
});
