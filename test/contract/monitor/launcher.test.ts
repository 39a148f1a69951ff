import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { containerd } from '../../../src/gen/containerd.js';
import { ShimRig, alive, childrenOf, until } from './harness.ts';

let rig: ShimRig;
beforeEach(async () => {
  rig = new ShimRig();
  await rig.engine.listen();
});
afterEach(() => rig.dispose());

describe('start', () => {
  it('prints the address only, and writes it into the bundle', async () => {
    const started = await rig.start('web', { input: Buffer.from([1, 2, 3]) });
    const name = createHash('sha256').update(`${rig.address}/test/web`).digest('hex');
    expect(started).toMatchObject({ status: 0, stderr: '', stdout: `unix:///run/containerd/s/${name}` });
    expect(readFileSync(join(rig.bundle(), 'address'), 'utf8')).toBe(started.stdout);
    expect(lstatSync(`/run/containerd/s/${name}`).isSocket()).toBe(true);
    expect(statSync(`/run/containerd/s/${name}`).mode & 0o777).toBe(0o600);
    const session = await until('hello', () => rig.engine.sessions[0]);
    rig.adopt(session.hello.monitorPid ?? 0);
  });

  it('hands everything it was told to the engine', async () => {
    const started = await rig.exec(
      ['--namespace=test', `--address=${rig.address}`, '-publish-binary', '/p', '-id=web', '-debug', 'start'],
      {
        name: 'containerd-shim-bulkhead-vm-v2',
        input: Buffer.from('options'),
      },
    );
    expect(started.status).toBe(0);
    const { stdin, ...request } = rig.engine.requests[0] ?? {};
    expect(request).toMatchObject({
      action: 'start',
      wall: 'vm',
      namespace: 'test',
      id: 'web',
      bundle: rig.bundle(),
      containerdAddress: rig.address,
      ttrpcAddress: `${rig.address}.ttrpc`,
      publishBinary: '/p',
      debug: true,
      maxShimVersion: 2,
    });
    expect(Buffer.from(stdin ?? []).toString()).toBe('options');
    const { hello } = await until('hello', () => rig.engine.sessions[0]);
    rig.adopt(hello.monitorPid ?? 0);
    expect(hello).toMatchObject({
      protocolMin: 1,
      protocolMax: 1,
      wall: 'vm',
      namespace: 'test',
      group: 'web',
      bundle: rig.bundle(),
      debug: true,
    });
  });

  it('prints the bootstrap text of the engine with the path filled in', async () => {
    rig.engine.onRequest = () => ({
      group: 'pod',
      bootstrap: Buffer.from('{"version":2,"address":"@ADDRESS@"}'),
    });
    const started = await rig.start();
    const path = `/run/containerd/s/${createHash('sha256').update(`${rig.address}/test/pod`).digest('hex')}`;
    expect(started.stdout).toBe(`{"version":2,"address":"${path}"}`);
    rig.adopt((await until('hello', () => rig.engine.sessions[0])).hello.monitorPid ?? 0);
  });

  it('prints the sentence of the engine and fails', async () => {
    rig.engine.onRequest = () => ({ error: 'start web: config.json: no such file or directory' });
    expect(await rig.start()).toMatchObject({
      status: 1,
      stdout: '',
      stderr: 'start web: config.json: no such file or directory\n',
    });
  });

  it('joins the monitor of its group', async () => {
    rig.engine.onRequest = () => ({ group: 'pod' });
    const { pid } = await rig.monitor('one');
    const second = await rig.start('two');
    expect(second).toMatchObject({ status: 0, stderr: '' });
    expect(second.stdout).toBe(readFileSync(join(rig.bundle('two'), 'address'), 'utf8'));
    expect(rig.engine.sessions).toHaveLength(1);
    expect(alive(pid)).toBe(true);
  });

  it('makes one monitor when twenty start at once', async () => {
    rig.engine.onRequest = () => ({ group: 'pod' });
    const all = await Promise.all(Array.from({ length: 20 }, (_, i) => rig.start(`c${i}`)));
    expect(new Set(all.map((one) => one.stdout)).size).toBe(1);
    expect(all.every((one) => one.status === 0 && one.stderr === '')).toBe(true);
    await until('hello', () => rig.engine.sessions[0]);
    expect(rig.engine.sessions).toHaveLength(1);
    rig.adopt(rig.engine.latest.hello.monitorPid ?? 0);
  });

  it('replaces a socket that nobody serves', async () => {
    const first = await rig.monitor();
    // Until it takes its first steps the bulkhead-init that the monitor has made ready holds the socket, too.
    const isReady = (child: number) => /spare/.test(readFileSync(`/proc/${child}/cmdline`, 'latin1'));
    await until('its child', () => childrenOf(first.pid).some(isReady));
    process.kill(first.pid, 'SIGKILL');
    await until('its end', () => !alive(first.pid));
    expect(existsSync(first.socket)).toBe(true);
    const second = await rig.monitor();
    expect(second.socket).toBe(first.socket);
    const client = await rig.dial(second.socket);
    expect(client.closed).toBe(false);
  });

  it('names the flag that is wrong', async () => {
    expect(await rig.exec(['-bogus', 'start'])).toMatchObject({
      status: 1,
      stdout: '',
      stderr: 'containerd-shim-bulkhead-v2: flag -bogus: not defined\n',
    });
    expect(await rig.exec(['-id', 'x', 'start'])).toMatchObject({
      status: 1,
      stderr: 'start x: flag -namespace: not set\n',
    });
    expect(await rig.exec(['-namespace', 'x', 'start'])).toMatchObject({
      status: 1,
      stderr: 'start: flag -id: not set\n',
    });
    expect(await rig.exec([])).toMatchObject({
      status: 1,
      stderr: 'containerd-shim-bulkhead-v2: an action is needed: start or delete\n',
    });
  });

  it('prints its version without an engine', async () => {
    await rig.engine.close();
    for (const flag of ['-v', '-version', '--version']) {
      const told = await rig.exec([flag]);
      expect(told).toMatchObject({ status: 0, stderr: '' });
      expect(told.stdout).toMatch(/^containerd-shim-bulkhead-v2:\n {2}Version: {2}\d+\.\d+\.\d+\n$/);
    }
  });
});

describe('delete and -info', () => {
  it('print the bytes of the engine', async () => {
    rig.engine.onRequest = () => ({ stdout: Buffer.from([8, 42, 16, 137, 1]) });
    const deleted = await rig.exec([...rig.flags('web'), '-bundle', '/some/bundle', 'delete']);
    expect(deleted).toMatchObject({ status: 0, stderr: '' });
    expect(Buffer.from(deleted.stdout, 'utf8').subarray(0, 2)).toEqual(Buffer.from([8, 42]));
    expect(rig.engine.requests[0]).toMatchObject({ action: 'delete', id: 'web', bundle: '/some/bundle' });
    const informed = await rig.exec(['-info'], { input: Buffer.from('any') });
    expect(informed.status).toBe(0);
    expect(rig.engine.requests[1]).toMatchObject({ action: 'info' });
  });
});

describe('what need not be asked', () => {
  const record = (): string => join(rig.root, 'tasks/test/web');
  const configure = (annotations: Record<string, string> = {}): void =>
    writeFileSync(join(rig.bundle(), 'config.json'), JSON.stringify({ ociVersion: '1.2.0', annotations }));
  const sign = (): void => writeFileSync(join(rig.root, 'engine.ttrpc'), '');
  const adopt = async (): Promise<void> =>
    rig.adopt((await until('hello', () => rig.engine.sessions[0])).hello.monitorPid ?? 0);

  it('a start of a lone container: the connection begins with the hello', async () => {
    configure({ 'com.example/pod': 'no' });
    sign();
    const started = await rig.start();
    const name = createHash('sha256').update(`${rig.address}/test/web`).digest('hex');
    expect(started).toMatchObject({ status: 0, stderr: '', stdout: `unix:///run/containerd/s/${name}` });
    await adopt();
    expect(rig.engine.requests).toHaveLength(0);
    expect(rig.engine.latest.hello).toMatchObject({ group: 'web', bundle: rig.bundle() });
  });

  it.each([
    ['there are options', () => (configure(), sign()), { input: Buffer.from([10, 0]) }],
    ['the engine has not said that it speaks ttrpc', () => configure(), {}],
    ['there is a pod', () => (configure({ 'io.kubernetes.cri.sandbox-id': 'pod' }), sign()), {}],
    ['there is a group', () => (configure({ 'io.containerd.runc.v2.group': 'pod' }), sign()), {}],
    ['config.json is missing', () => sign(), {}],
    ['config.json is no file', () => (mkdirSync(join(rig.bundle(), 'config.json')), sign()), {}],
    ['config.json is large', () => (configure({ large: 'x'.repeat(1 << 18) }), sign()), {}],
  ])('a start is asked when %s', async (_, prepare, options) => {
    prepare();
    expect(await rig.start('web', options)).toMatchObject({ status: 0, stderr: '' });
    await adopt();
    expect(rig.engine.requests).toMatchObject([{ action: 'start', id: 'web' }]);
  });

  it('a delete of which nothing is left', async () => {
    writeFileSync(join(rig.bundle(), 'address'), `unix://${rig.dir}/gone.sock`);
    const before = Math.floor(Date.now() / 1000);
    const deleted = await rig.exec([...rig.flags('web'), '-bundle', rig.bundle(), 'delete'], {
      cwd: rig.dir,
    });
    expect(deleted).toMatchObject({ status: 0, stderr: '' });
    const response = containerd.task.v3.DeleteResponse.decode(deleted.bytes);
    expect(response).toMatchObject({ pid: 0, exitStatus: 137 });
    expect(response.exitedAt?.seconds).toBeGreaterThanOrEqual(before);
    expect(response.exitedAt?.seconds).toBeLessThanOrEqual(Date.now() / 1000);
    expect(rig.engine.requests).toHaveLength(0);
  });

  const address = (path: string): void => writeFileSync(join(rig.bundle(), 'address'), `unix://${path}`);
  it.each([
    ['there is a record', 'web', () => (address('/gone'), mkdirSync(record(), { recursive: true }))],
    ['the monitor is there', 'web', () => address(join(rig.root, 'engine.sock'))],
    ['the monitor is unknown', 'web', () => {}],
    ['its address is no path', 'web', () => writeFileSync(join(rig.bundle(), 'address'), 'vsock://3')],
    ['its id is no name', '../web', () => address('/gone')],
  ])('a delete is asked when %s', async (_, id, prepare) => {
    prepare();
    rig.engine.onRequest = () => ({ stdout: Buffer.from([8, 42]) });
    const deleted = await rig.exec([...rig.flags(id), '-bundle', rig.bundle(), 'delete']);
    expect(deleted).toMatchObject({ status: 0, stderr: '' });
    expect(rig.engine.requests).toMatchObject([{ action: 'delete', id }]);
  });
});

describe('the engine', () => {
  /** What stands in for it: passes connections on to the test's own engine, and writes down how it was started. */
  const PROXY = `
    const net = require('node:net'), fs = require('node:fs'), root = process.env.BULKHEAD_ROOT;
    fs.writeFileSync(root + '/started', JSON.stringify({ pid: process.pid, cwd: process.cwd(), env: process.env,
      fds: fs.readdirSync('/proc/self/fd').map(Number).filter((fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd); } catch { return false; } }).length,
      sid: Number(fs.readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ')[3]) }));
    console.log('proxy ready');
    net.createServer((from) => {
      const to = net.connect(root + '/real.sock');
      from.on('error', () => to.destroy()); to.on('error', () => from.destroy());
      from.pipe(to); to.pipe(from); to.on('close', () => from.destroy()); from.on('close', () => to.destroy());
    }).listen({ fd: 3 });`;
  let enginePid = 0;
  afterEach(() => {
    if (enginePid !== 0 && alive(enginePid)) process.kill(enginePid, 'SIGKILL');
    enginePid = 0;
  });

  it('is started when it is absent, once, by twenty at a time, apart from containerd', async () => {
    await rig.engine.close();
    const real = new (await import('./fake_engine.ts')).FakeEngine(rig.root, 'real.sock');
    await real.listen();
    writeFileSync(
      join(rig.dir, 'lib/bulkhead/engine.cjs'),
      `${PROXY}\nrequire('node:fs').appendFileSync(root + '/starts', 'x');`,
    );
    const all = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        rig.start(`c${i}`, {
          env: { NODE_EXTRA_CA_CERTS: '/nowhere', NODE_OPTIONS: '--bogus', SECRET: 'x' },
        }),
      ),
    );
    const started = JSON.parse(readFileSync(join(rig.root, 'started'), 'utf8')) as {
      pid: number;
      cwd: string;
      sid: number;
      env: Record<string, string>;
    };
    enginePid = started.pid;
    expect(all.map((one) => one.stderr).join('')).toBe('');
    expect(all.every((one) => one.status === 0)).toBe(true);
    expect(readFileSync(join(rig.root, 'starts'), 'utf8')).toBe('x');
    expect(started.cwd).toBe('/');
    expect(started.sid).not.toBe(started.pid);
    expect(started.sid).toBeGreaterThan(1);
    expect(Object.keys(started.env).sort()).toEqual(['BULKHEAD_ROOT', 'PATH']);
    expect(readFileSync(join(rig.root, 'engine.log'), 'utf8')).toBe('proxy ready\n');
    expect(statSync(rig.root).isDirectory()).toBe(true);
    await until('all hellos', () => real.sessions.length === 20);
    for (const session of real.sessions) {
      rig.adopt(session.hello.monitorPid ?? 0);
      session.send({ shutdown: {} });
    }
    await until('their end', () => real.sessions.every((session) => session.closed));
    await real.close();
  });

  it('that cannot be executed is named', async () => {
    await rig.engine.close();
    rmSync(join(rig.dir, 'lib/bulkhead/node'));
    const started = await rig.start();
    expect(started).toMatchObject({ status: 1, stdout: '' });
    expect(started.stderr).toBe(
      `start web: ${rig.dir}/lib/bulkhead/node: start the engine: no such file or directory\n`,
    );
    expect(existsSync(join(rig.root, 'engine.sock'))).toBe(false);
  });

  it('that dies before it answers ends in one sentence', async () => {
    await rig.engine.close();
    writeFileSync(join(rig.dir, 'lib/bulkhead/engine.cjs'), 'process.exit(3)');
    const started = await rig.start();
    expect(started).toMatchObject({ status: 1, stdout: '' });
    expect(started.stderr).toBe(
      `start web: engine: no answer: connection reset by peer, see ${rig.root}/engine.log\n`,
    );
  });

  it('that drops a request is asked again', async () => {
    let asked = 0;
    rig.engine.onRequest = (request) => (++asked < 3 ? undefined : { group: request.id });
    const started = await rig.start();
    expect(started).toMatchObject({ status: 0, stderr: '' });
    expect(asked).toBe(3);
    rig.adopt((await until('hello', () => rig.engine.sessions[0])).hello.monitorPid ?? 0);
  });

  it('has a socket whose path must fit', async () => {
    const long = `/tmp/${'x'.repeat(120)}`;
    const started = await rig.start('web', { env: { BULKHEAD_ROOT: long } });
    expect(started).toMatchObject({
      status: 1,
      stdout: '',
      stderr: `start web: ${long}/engine.sock: connect: file name too long\n`,
    });
  });
});

describe('the command', () => {
  it('runs the bundled command line with the words it got', async () => {
    writeFileSync(
      join(rig.dir, 'lib/bulkhead/cli.cjs'),
      'console.log(JSON.stringify([process.argv.slice(2), "NODE_EXTRA_CA_CERTS" in process.env]))',
    );
    const ran = await rig.exec(['state', '--root', '/x'], {
      name: 'bulkhead',
      env: { NODE_EXTRA_CA_CERTS: '/nowhere' },
    });
    expect(ran).toMatchObject({ status: 0, stdout: '[["state","--root","/x"],false]\n', stderr: '' });
  });

  it('says so when Node is missing', async () => {
    unlinkSync(join(rig.dir, 'lib/bulkhead/node'));
    const ran = await rig.exec(['state'], { name: 'bulkhead' });
    expect(ran).toMatchObject({
      status: 1,
      stderr: `bulkhead: ${rig.dir}/lib/bulkhead/node: exec: no such file or directory\n`,
    });
  });

  it('refuses a name it does not know', async () => {
    chmodSync(join(rig.dir, 'bin/bulkhead-shim'), 0o755);
    const { symlinkSync } = await import('node:fs');
    symlinkSync('bulkhead-shim', join(rig.dir, 'bin/other'));
    expect((await rig.exec(['start'], { name: 'other' })).status).toBe(1);
  });
});
