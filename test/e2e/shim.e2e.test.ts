/**
 * The shim asked directly, over its socket, for what containerd's own clients cannot be made to ask: requests out of
 * order, out of sense, and twice. What it answers, and that nothing stays behind.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { decodeMetrics } from '../../src/metrics/index.ts';
import { BareShim, type LooseSpec, type TaskClient } from './lib/bare_shim.ts';
import { eventually } from './lib/exec.ts';
import { findLeaks, markedProcesses } from './lib/leaks.ts';
import { isBulkhead, isVm } from './lib/paths.ts';

describe.skipIf(!isBulkhead || isVm)('a shim that is asked directly', () => {
  let shim: BareShim;
  let next = 0;
  beforeAll(() => {
    shim = new BareShim();
  });
  afterEach(async () => expect(await shim.leaks()).toEqual([]));
  afterAll(() => shim?.stop());

  /** A shim for one container, which `change` configures. */
  const open = async (change: (spec: LooseSpec) => void = () => {}): Promise<TaskClient> => {
    const id = `c${next++}`;
    return shim.start(id, await shim.bundle(id, change));
  };
  /** Deletes the container, ends the shim, and runs its `delete`, as containerd does. */
  const end = async (task: TaskClient): Promise<void> => {
    await task.call('Kill', { signal: 9 });
    await task.call('Wait');
    await task.call('Delete');
    await task.call('Shutdown');
    task.close();
    expect(await shim.action('delete', task.id, task.bundle)).toMatchObject({ code: 0, stderr: '' });
  };

  it.each([
    ['without its interpreter', '#!/no/such/shell\n', 'no such file or directory'],
    ['in no known format', 'echo hello\n', 'exec format error (exec)'],
  ])('ends a container whose program is a script %s', async (_what, script, reason) => {
    const task = await open((spec) => (spec.process.args = ['/script']));
    writeFileSync(join(task.bundle, 'rootfs/script'), script);
    chmodSync(join(task.bundle, 'rootfs/script'), 0o755);
    expect(await task.create()).toMatchObject({ code: 0 });
    const waiting = task.call('Wait');
    expect(await task.call('Start')).toMatchObject({
      code: 3,
      message: `start ${task.id}: exec "/script": ${reason}`,
    });
    expect((await waiting).response).toMatchObject({ exitStatus: 1 });
    expect((await task.call('State')).response).toMatchObject({ status: 3, exitStatus: 1 });
    expect((await task.call('Delete')).response).toMatchObject({ exitStatus: 1 });
    await end(task);
  });

  it.each<[object, RegExp]>([
    [[], /^update c\d+: resources: top level: must be an object, is a list$/],
    [{ pids: { limit: 'many' } }, /^update c\d+: resources: pids.limit: must be an integer, is "many"$/],
    [{ cpu: { shares: 'a' } }, /^update c\d+: resources: cpu.shares: must be an integer, is "a"$/],
    [{ memory: { limit: 1e30 } }, /^update c\d+: resources: memory.limit: must be from /],
    [{ memory: { limit: -5 } }, /^update c\d+: linux.resources.memory.limit: must not be negative/],
    [
      { pids: { limit: 3 }, cpu: { cpus: '999' } },
      /^update c\d+: .* \(linux.resources.cpu.cpus\): not all of them can be had: the cgroup above has /,
    ],
  ])('refuses an update to %j and changes nothing', async (resources, sentence) => {
    const task = await open((spec) => (spec.linux.resources = { pids: { limit: 77 } }));
    await task.create();
    await task.call('Start');
    const limit = async (): Promise<unknown> => {
      const { typeUrl, value } = (await task.call('Stats')).response?.stats ?? {};
      return decodeMetrics({ typeUrl: typeUrl ?? '', value: value ?? new Uint8Array() })?.metrics.pids;
    };
    const before = await limit();
    expect(before).toMatchObject({ limit: 77 });
    const value = Buffer.from(JSON.stringify(resources));
    expect(await task.call('Update', { resources: { typeUrl: 'LinuxResources', value } })).toMatchObject({
      code: 3,
      message: expect.stringMatching(sentence),
    });
    expect(await limit()).toEqual(before);
    await end(task);
  });

  it('refuses what makes no sense, by its name', async () => {
    const task = await open();
    const ask = { typeUrl: 'containerd.runc.v1.Options', value: Buffer.from('ffffff', 'hex') };
    const spec = { typeUrl: 'Process', value: Buffer.from('{"args":["true"],"cwd":"/"}') };
    expect(await task.create({ options: ask })).toMatchObject({
      code: 3,
      message: `create ${task.id}: options of type containerd.runc.v1.Options: not such a message`,
    });
    expect(await task.create({ id: '../x' })).toMatchObject({
      code: 3,
      message: 'create: container id "../x": may hold letters, digits and _ + - . only',
    });
    expect(await task.call('Checkpoint', { id: 'other' })).toMatchObject({ code: 5 });
    expect(await task.create()).toMatchObject({ code: 0 });
    await task.call('Start');
    expect(await task.call('Kill', { signal: 200 })).toMatchObject({
      code: 3,
      message: `kill ${task.id}: signal 200: no such signal`,
    });
    expect(await task.call('Exec', { execId: '../x', spec })).toMatchObject({
      code: 3,
      message: `exec ${task.id}: exec id "../x": may hold letters, digits and _ + - . only`,
    });
    expect(await task.call('Exec', { execId: '', spec })).toMatchObject({
      code: 3,
      message: `exec ${task.id}: exec id "": must not be empty`,
    });
    await end(task);
  });

  it.each([
    ['that was never asked to create anything', 'started'],
    ['whose container runs', 'running'],
    ['whose container was killed with it', 'killed'],
  ])('leaves nothing after the delete of a shim %s', async (_what, until) => {
    const task = await open();
    if (until !== 'started') {
      await task.create();
      await task.call('Start');
    }
    if (until === 'killed') process.kill((await task.call('Connect')).response?.shimPid ?? 0, 'SIGKILL');
    task.close();
    expect(await shim.action('delete', task.id, task.bundle)).toMatchObject({ code: 0, stderr: '' });
    expect(await shim.leaks()).toEqual([]);
  });

  it.each([
    [
      { memory: { limit: 100_000 } },
      'memory.limit: 100000 bytes are too few to start a program, at least 524288',
    ],
    [{ pids: { limit: 1 } }, 'temporarily unavailable (clone); its limit of 1 processes may be too small'],
  ])('says that %j may be too small to start', async (resources, words) => {
    const task = await open((spec) => (spec.linux.resources = resources));
    expect((await task.create()).message).toContain(words);
    await end(task);
  });

  it('ends a shim that nobody comes to, then the engine', async () => {
    const config = '[engine]\nabandoned_timeout_seconds = 0.2\nidle_timeout_seconds = 0.2\n';
    const lonely = new BareShim(config);
    const bundle = await lonely.bundle('c');
    expect(await lonely.action('start', 'c', bundle)).toMatchObject({ code: 0 });
    expect(markedProcesses(lonely).length).toBeGreaterThan(0);
    await eventually('the shim and the engine to end', () => markedProcesses(lonely).length === 0);
    expect(findLeaks(lonely)).toEqual([]);
    expect(readdirSync(lonely.bulkheadRoot).filter((name) => name.startsWith('engine.sock'))).toEqual([]);
  });

  it('deletes a container that was never started without waiting for a reader of its output', async () => {
    const task = await open();
    const stdout = join(task.bundle, 'stdout');
    execFileSync('mkfifo', [stdout]);
    expect(await task.create({ stdout })).toMatchObject({ code: 0 });
    const began = performance.now();
    expect(await task.call('Delete')).toMatchObject({ code: 0 });
    // A reader would be waited for ten seconds, and containerd gives the shim five.
    expect(performance.now() - began).toBeLessThan(8_000);
    await end(task);
  });
});
