import { describe, expect, it } from 'vitest';
import { FakeExecutor } from '../../test/fakes/executor.ts';
import { stepNames } from '../plan/step_names.ts';
import { LaunchError } from '../sandbox/executor.ts';
import type { GuestProcess } from '../sandbox/vm/pod_agent.ts';
import { GuestExec, type RunInGuest } from './guest_exec.ts';
import type { MonitorSession } from './monitor_session.ts';

const EXEC = Number(Object.entries(stepNames).find(([, name]) => name === 'exec')?.[0]);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class Rig {
  readonly executor = new FakeExecutor();
  readonly ran: GuestProcess[] = [];
  lose: (nothing: undefined) => void = () => {};
  /** Set: launches wait for it. */
  hold: Promise<void> | undefined;
  readonly session = {
    executor: this.executor,
    lost: new Promise<undefined>((resolve) => (this.lose = resolve)),
  } as unknown as MonitorSession;
  readonly run: RunInGuest = async (_, __, process) => {
    this.ran.push(process);
    await this.hold;
    this.executor.gate = () => '';
    return this.executor.launch(process.key, new Uint8Array(), process.stdio);
  };
  readonly exec: GuestExec;
  readonly end: ReturnType<GuestExec['end']>;

  constructor(set: (rig: Rig) => void = () => {}) {
    set(this);
    this.exec = new GuestExec(this.session, { namespace: 'ns', group: 'pod', args: ['ls'] }, this.run);
    this.end = this.exec.end();
  }
  get key(): string {
    return this.ran[0]?.key ?? '';
  }
}

describe('a process in a guest for the command line', () => {
  it('ends with its status, and is forgotten', async () => {
    const rig = new Rig();
    await turn();
    expect(rig.ran).toMatchObject([
      { args: ['ls'], cwd: '/', env: [], stdio: { stdin: '', terminal: false } },
    ]);
    rig.executor.exit(rig.key, 3 << 8);
    expect(await rig.end).toEqual({ waitStatus: 3 << 8 });
    expect(rig.executor.calls.at(-1)).toBe(`forget ${rig.key}`);
  });

  it('is another one each time', async () => {
    const [one, two] = [new Rig(), new Rig()];
    await turn();
    expect(one.key).not.toBe(two.key);
  });

  it('is told of the end of input and of sizes, also of those that came before it', async () => {
    let release = (): void => {};
    const rig = new Rig((each) => {
      each.hold = new Promise((resolve) => (release = resolve));
    });
    rig.exec.input({ closeStdin: true });
    rig.exec.input({ width: 80, height: 24 });
    expect(rig.executor.calls).toEqual([]);
    release();
    await turn();
    rig.exec.input({ width: 100, height: 30 });
    expect(rig.executor.calls.slice(1)).toEqual([
      `close-stdin ${rig.key}`,
      `resize ${rig.key} 80x24`,
      `resize ${rig.key} 100x30`,
    ]);
    rig.executor.exit(rig.key, 0);
    await rig.end;
  });

  it.each([
    ['runs', false],
    ['is still being launched', true],
  ])('is killed when nobody waits any more, while it %s', async (_, early) => {
    const rig = new Rig();
    if (!early) await turn();
    rig.exec.abandon();
    expect(await rig.end).toEqual({ waitStatus: 9 });
  });

  it('is one sentence when it cannot be executed', async () => {
    const exec = new GuestExec(new Rig().session, { namespace: 'ns', group: 'pod', args: ['ls'] }, () =>
      Promise.reject(
        new LaunchError({ index: 0, action: EXEC, path: '/x', errno: 2, detail: '', status: 0, op: '' }),
      ),
    );
    expect(await exec.end()).toEqual({ error: 'guest exec pod: exec "/x": no such file or directory' });
  });

  it('is one sentence when its monitor goes', async () => {
    const rig = new Rig();
    await turn();
    rig.lose(undefined);
    expect(await rig.end).toEqual({ error: 'guest exec pod: virtual machine: is not there any more' });
  });

  it('is one sentence when there is no such pod', async () => {
    const exec = new GuestExec(undefined, { namespace: 'ns', group: 'gone', args: ['ls'] }, () =>
      Promise.reject(new Error('asked')),
    );
    expect(await exec.end()).toEqual({ error: 'guest exec gone: virtual machine: is not there any more' });
    exec.input({ closeStdin: true });
    exec.abandon();
  });
});
