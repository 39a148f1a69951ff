import { execFile, execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, readSync, readlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS } from '../base/constants.ts';
import { encodePlan } from '../plan/encode.ts';
import type { LaunchEvent, StepFailure } from './addon.d.ts';
import { addon, findAddon } from './index.ts';
import { LaunchFailedError, Launcher, type Launched, type LaunchInput } from './launcher.ts';

type Steps = NonNullable<Parameters<typeof encodePlan>[0]['steps']>;

const initPath = join(import.meta.dirname, '../../build/native/bulkhead-init');
const launcher = new Launcher(initPath);
/** Whatever a test launched ends with it, also when it fails half-way. */
const launchedHere: Launched[] = [];
afterEach(() => {
  for (const launched of launchedHere.splice(0)) {
    try {
      launched.signal(9);
    } catch {
      continue; // it has ended
    }
  }
});

const launch = (steps: Steps, input: Omit<LaunchInput, 'plan'> = {}): Launched => {
  const launched = launcher.launch({ plan: plan(steps), ...input });
  launchedHere.push(launched);
  return launched;
};

const plan = (steps: Steps): Uint8Array => encodePlan({ version: 1, id: 'test', steps });
const clone: Steps = [{ clone: { namespaces: CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS } }];
const gate = (point: string): Steps => [{ gate: { point } }];
const shell = (script: string): Steps => [{ exec: { file: '/bin/sh', args: ['sh', '-c', script], env: [] } }];

/** Every event up to `exited`, with the process let through its gates. */
function record(
  steps: Steps,
  act: (event: LaunchEvent, handle: ReturnType<typeof start>) => void,
): Promise<LaunchEvent[]> {
  const events: LaunchEvent[] = [];
  return new Promise((resolve) => {
    const handle = start(steps, (event) => {
      events.push(event);
      act(event, handle);
      if (event.type === 'exited') setImmediate(() => resolve(events));
    });
  });
}
const start = (steps: Steps, onEvent: (event: LaunchEvent) => void) =>
  addon().launch({ initPath, plan: plan(steps), stdio: [-1, -1, -1] }, onEvent);

const openFds = (): number => readdirSync('/proc/self/fd').length;
const zombies = (): number =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return state === 'Z' && parent === String(process.pid);
      } catch {
        return false;
      }
    }).length;

const failureOf = async (launched: Launched): Promise<StepFailure> => {
  const error = await launched.advance().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(LaunchFailedError);
  return (error as LaunchFailedError).failure;
};

const gc = (): void => {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
};

describe('events', () => {
  it('come in order, exited last', async () => {
    const events = await record(
      [...clone, ...gate('createRuntime'), ...gate('start'), ...shell('exit 3')],
      (event, handle) => {
        if (event.type === 'paused') handle.proceed();
      },
    );
    expect(events.map((event) => event.type)).toEqual(['cloned', 'paused', 'paused', 'started', 'exited']);
    const pid = (events[0] as { pid: number }).pid;
    expect(events.slice(1)).toEqual([
      { type: 'paused', pid, point: 'createRuntime' },
      { type: 'paused', pid, point: 'start' },
      { type: 'started', pid },
      { type: 'exited', pid, waitStatus: 3 << 8 },
    ]);
  });

  it('need no second process', async () => {
    const events = await record(shell('exit 9'), () => {});
    expect(events.map((event) => event.type)).toEqual(['started', 'exited']);
    expect(events[1]).toMatchObject({ waitStatus: 9 << 8 });
  });

  it('name the step that failed, before and after Clone', async () => {
    const before = await record([{ openFile: { slot: 1, path: '/no/such', flags: 0 } }, ...clone], () => {});
    expect(before.map((event) => event.type)).toEqual(['failed', 'exited']);
    expect(before[0]).toMatchObject({ failure: { index: 0, action: 9, path: '/no/such', errno: 2 } });

    const after = await record([...clone, { exec: { file: '/no/such', args: ['x'] } }], () => {});
    expect(after.map((event) => event.type)).toEqual(['cloned', 'failed', 'exited']);
    expect(after[1]).toMatchObject({ failure: { index: 1, action: 65, path: '/no/such', errno: 2 } });
  });

  it('refuse what is no plan', async () => {
    const events = await new Promise<LaunchEvent[]>((resolve) => {
      const seen: LaunchEvent[] = [];
      addon().launch({ initPath, plan: Buffer.from('no plan at all'), stdio: [-1, -1, -1] }, (event) => {
        if (seen.push(event) && event.type === 'exited') resolve(seen);
      });
    });
    expect(events.map((event) => event.type)).toEqual(['failed', 'exited']);
  });

  it('that throw become uncaught exceptions, and the next ones still come', () => {
    const script = `
      const addon = require(process.argv[1]);
      process.on('uncaughtException', (error) => console.log('uncaught', error.message));
      addon.launch({ initPath: process.argv[2], plan: Buffer.from(process.argv[3], 'hex'), stdio: [-1, -1, -1] },
        (event) => { console.log(event.type); throw new Error('in ' + event.type); });`;
    const hex = Buffer.from(plan(shell('exit 0'))).toString('hex');
    const out = execFileSync(process.execPath, ['-e', script, findAddon(), initPath, hex], {
      encoding: 'utf8',
    });
    expect(out.trim().split('\n')).toEqual([
      'started',
      'uncaught in started',
      'exited',
      'uncaught in exited',
    ]);
  });
});

describe('a gate', () => {
  it('holds the process until it may proceed', async () => {
    const launched = launch([...clone, ...gate('start'), ...shell('exit 0')]);
    expect(await launched.advance()).toEqual({ pid: launched.pid, pausedAt: 'start' });
    await sleep(20);
    expect(readlinkSync(`/proc/${launched.pid}/exe`)).toContain('bulkhead-init');
    launched.proceed();
    expect(await launched.advance()).toEqual({ pid: launched.pid, pausedAt: '' });
    expect(await launched.exited).toMatchObject({ pid: launched.pid, waitStatus: 0 });
    expect(launched.over).toBe(true);
  });

  it('lets the process go quietly when it is abandoned, also beforehand', async () => {
    for (const early of [true, false]) {
      const events = await record([...clone, ...gate('start'), ...shell('exit 0')], (event, handle) => {
        if (event.type === (early ? 'cloned' : 'paused')) handle.abandon();
      });
      const types = events.map((event) => event.type);
      expect(types).toEqual(early ? ['cloned', 'exited'] : ['cloned', 'paused', 'exited']);
    }
  });

  it('answers who still waits for an abandoned process', async () => {
    const launched = launch([...clone, ...gate('start'), ...shell('exit 0')]);
    await launched.advance();
    const waiting = failureOf(launched);
    launched.abandon();
    expect(await waiting).toMatchObject({ action: 0, detail: 'exited' });
    expect(await failureOf(launched)).toMatchObject({ detail: 'exited' });
  });

  it('tells when the process is killed there', async () => {
    const launched = launch([...clone, ...gate('start'), ...shell('exit 0')]);
    await launched.advance();
    launched.signal(9);
    expect(await failureOf(launched)).toMatchObject({ action: 0, detail: 'died', status: 9 });
    expect(await launched.exited).toMatchObject({ waitStatus: 9 });
  });

  it('opens only when there is one', async () => {
    const launched = launch(shell('read line'), { stdio: [openSync('/dev/zero', 'r'), -1, -1] });
    await launched.advance();
    expect(() => launched.proceed()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    launched.signal(15);
    expect((await launched.exited).waitStatus).toBe(15);
    expect(() => launched.proceed()).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    expect(() => launched.signal(9)).toThrow(expect.objectContaining({ code: 'ESRCH', errno: 3 }));
  });
});

describe('the launched process', () => {
  it.each([0, 1, 126, 127, 128, 255])('exits with %i', async (code) => {
    const launched = launch([...clone, ...shell(`exit ${code}`)]);
    expect((await launched.exited).waitStatus).toBe(code << 8);
  });

  it.each([1, 6, 9, 15])('dies of signal %i', async (signum) => {
    const launched = launch(shell(`kill -${signum} $$`));
    expect((await launched.exited).waitStatus & 0x7f).toBe(signum);
  });

  it('has the descriptors given and no others', async () => {
    const out = openSync('/tmp', 0o20200002 /* O_TMPFILE|O_RDWR */, 0o600);
    const extra = openSync('/etc/hostname', 'r');
    const list = 'for fd in /proc/self/fd/*; do echo "${fd##*/} $(readlink $fd)"; done';
    const steps: Steps = [{ exec: { file: '/bin/sh', args: ['sh', '-c', list], env: [], preserveFds: 1 } }];
    const launched = launch(steps, { stdio: [-1, out, -1], extraFds: [extra] });
    expect((await launched.exited).waitStatus).toBe(0);
    const buffer = Buffer.alloc(4096);
    const lines = buffer
      .toString('utf8', 0, readSync(out, buffer, 0, 4096, 0))
      .trim()
      .split('\n');
    closeSync(out);
    closeSync(extra);
    // One more is the directory that the shell itself is listing; it is gone by the time of readlink.
    expect(lines[0]).toBe('0 /dev/null');
    expect(lines.slice(3)).toEqual(['3 /etc/hostname', '4']);
  });

  it('lives on when it is released', async () => {
    const events: string[] = [];
    const handle = start(shell('exec sleep 30'), (event) => events.push(event.type));
    while (events.length === 0) await sleep(1);
    const { pid } = handle;
    handle.release();
    expect(() => handle.signal(0)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    const gone = addon().waitPidGone(pid);
    addon().pidfdSendSignal(pid, addon().processStartTime(pid), 9);
    await gone;
    expect(events).toEqual(['started']);
  });

  it('gets a terminal', async () => {
    const launched = launch([
      { enterRoot: { path: '/' } },
      { terminal: { width: 80, height: 24 } },
      ...shell('read line; stty size; echo "got $line"'),
    ]);
    await launched.advance();
    const master = launched.console;
    expect(master).toBeTypeOf('number');
    if (master === undefined) return;
    expect(addon().getWinsize(master)).toEqual({ width: 80, height: 24 });
    addon().setWinsize(master, 132, 43);
    writeSync(master, 'hello\n');
    await launched.exited;
    const buffer = Buffer.alloc(4096);
    let text = '';
    for (let size = 1; size > 0;) {
      try {
        size = readSync(master, buffer);
      } catch {
        size = 0; // EIO: the slave is closed
      }
      text += buffer.toString('utf8', 0, size);
    }
    closeSync(master);
    expect(text).toContain('43 132');
    expect(text).toContain('got hello');
  });
});

describe('beside Node', () => {
  it('does not take child_process’s exits, nor loses its own', async () => {
    const ours = Array.from({ length: 30 }, async (_, code) => {
      const launched = launch([...clone, ...shell(`sleep 0.0${code % 10}; exit ${code}`)]);
      return (await launched.exited).waitStatus >> 8;
    });
    const nodes = Array.from(
      { length: 30 },
      (_, index) =>
        new Promise<number | null>((resolve) => {
          const code = index + 100;
          spawn('/bin/sh', ['-c', `sleep 0.0${code % 10}; exit ${code}`]).on('exit', resolve);
        }),
    );
    expect(await Promise.all(ours)).toEqual(Array.from({ length: 30 }, (_, code) => code));
    expect(await Promise.all(nodes)).toEqual(Array.from({ length: 30 }, (_, index) => index + 100));
  });

  it('keeps no descriptor, zombie or handle over 500 launches', async () => {
    const once = async (index: number): Promise<void> => {
      const steps = index % 2 === 0 ? shell('exit 0') : [...clone, ...gate('start'), ...shell('exit 0')];
      const launched = launch(steps);
      await launched.advance();
      if (index % 4 === 1) launched.abandon();
      if (index % 4 === 3) launched.proceed();
      await launched.exited;
    };
    await once(0);
    await once(1);
    gc();
    await sleep(10);
    const before = { fds: openFds(), zombies: zombies() };
    for (let index = 0; index < 500; index += 10) {
      await Promise.all(Array.from({ length: 10 }, (_, offset) => once(index + offset)));
    }
    gc();
    await sleep(10);
    expect({ fds: openFds(), zombies: zombies() }).toEqual(before);
    expect(process.getActiveResourcesInfo().filter((name) => name.startsWith('Bulkhead'))).toEqual([]);
  }, 60_000);

  it('keeps a launch alive whose handle nobody holds', async () => {
    const before = zombies();
    let last = '';
    start(shell('sleep 0.1'), (event) => (last = event.type));
    for (let round = 0; round < 5; round += 1) {
      gc();
      await sleep(5);
    }
    while (last !== 'exited') await sleep(5);
    expect(zombies()).toBe(before);
  });

  it('closes everything when a worker ends in the middle', async () => {
    const before = openFds();
    for (let round = 0; round < 5; round += 1) {
      const script = `
        const { workerData, parentPort } = require('node:worker_threads');
        const addon = require(workerData.addon);
        const launch = (plan) => addon.launch({ initPath: workerData.initPath, plan, stdio: [-1, -1, -1] },
          (event) => parentPort.postMessage(event.type));
        const kept = [launch(workerData.waits), launch(workerData.runs)];
        addon.waitPidGone(process.pid);
        parentPort.postMessage(kept[1].pid);`;
      const worker = new Worker(script, {
        eval: true,
        workerData: {
          addon: findAddon(),
          initPath,
          waits: plan([...clone, ...gate('start'), ...shell('exit 0')]),
          runs: plan(shell('exec sleep 30')),
        },
      });
      const seen = new Set<string>();
      const pid = await new Promise<number>((resolve, reject) => {
        let runs = 0;
        worker.on('error', reject);
        worker.on('message', (message: string | number) => {
          if (typeof message === 'number') runs = message;
          else seen.add(message);
          if (seen.has('paused') && seen.has('started')) resolve(runs);
        });
      });
      await worker.terminate();
      // Not a child to anybody's event loop any more: ended here, and left to whoever reaps this process's orphans.
      process.kill(pid, 'SIGKILL');
    }
    await sleep(20);
    expect(openFds()).toBeLessThanOrEqual(before + 2);
  });

  it('ends the program when nothing is left to wait for', async () => {
    const script = `
      const addon = require(process.argv[1]);
      addon.launch({ initPath: process.argv[2], plan: Buffer.from(process.argv[3], 'hex'), stdio: [-1, -1, -1] }, () => {});
      const released = addon.launch({ initPath: process.argv[2], plan: Buffer.from(process.argv[4], 'hex'),
        stdio: [-1, -1, -1] }, (event) => {
          if (event.type !== 'started') return;
          console.log(event.pid);
          released.release();
        });`;
    const hex = (steps: Steps): string => Buffer.from(plan(steps)).toString('hex');
    const args = ['-e', script, findAddon(), initPath, hex(shell('exit 0')), hex(shell('exec sleep 60'))];
    const began = Date.now();
    const { stdout } = await promisify(execFile)(process.execPath, args);
    expect(Date.now() - began).toBeLessThan(30_000);
    process.kill(Number(stdout), 'SIGKILL');
  });
});

describe('a launch that cannot begin', () => {
  it('throws with errno and path', () => {
    const missing = new Launcher('/no/such/bulkhead-init');
    expect(() => missing.launch({ plan: plan(shell('')) })).toThrow(
      expect.objectContaining({ code: 'ENOENT', errno: 2, path: '/no/such/bulkhead-init' }),
    );
    expect(() => launch(shell(''), { stdio: [9999, -1, -1] })).toThrow(
      expect.objectContaining({ code: 'EBADF' }),
    );
  });

  it('refuses wrong arguments by name', () => {
    const wrong = (options: object, message: string): void =>
      expect(() => addon().launch(options as never, () => {})).toThrow(new TypeError(message));
    const right = { initPath, plan: new Uint8Array(0), stdio: [-1, -1, -1] };
    wrong({ ...right, initPath: 1 }, 'initPath: expected a string');
    wrong({ ...right, initPath: 'a\0b' }, 'initPath: contains a NUL character');
    wrong({ ...right, plan: 'x' }, 'plan: expected a Uint8Array');
    wrong({ ...right, stdio: [0, 1] }, 'stdio: expected three descriptors');
    wrong({ ...right, stdio: [0, 1, 1.5] }, 'stdio: expected an integer from -1 to 2147483647');
    wrong({ ...right, extraFds: [-1] }, 'extraFds: expected an integer from 0 to 2147483647');
    expect(() => addon().launch(right as never, undefined as never)).toThrow('onEvent: expected a function');
  });
});
