import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { bulkhead } from '../gen/bulkhead.js';
import { addon } from '../native/index.ts';
import { checkId, checkNamespace, StateStore, type ContainerRecord } from './index.ts';
import { encodeRecord } from './schema.ts';

let root = '';
let store: StateStore;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-state-'));
  store = new StateStore(join(root, 'state'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const record = (id: string, more: ContainerRecord = {}): ContainerRecord => ({
  id,
  namespace: 'default',
  ...more,
});
const fileOf = (id: string): string => join(root, 'state/tasks/default', id, 'state.pb');
const noErrors = (error: RuntimeError): never => {
  throw error;
};

/** What a call threw. */
function thrownBy(call: () => unknown): RuntimeError {
  try {
    call();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  return expect.fail('did not throw');
}

describe('names', () => {
  it.each(['web-1', 'a', 'A.b_c+d-e', '.hidden', '...', 'x'.repeat(250)])('takes %s', (name) => {
    checkId('create', name);
    checkNamespace('create', name);
  });

  it.each([
    ['', 'must not be empty'],
    ['.', 'is a directory of its own'],
    ['..', 'is a directory of its own'],
    ['a/b', 'may hold letters, digits and _ + - . only'],
    ['a b', 'may hold letters, digits and _ + - . only'],
    ['a\0', 'may hold letters, digits and _ + - . only'],
    ['a\n', 'may hold letters, digits and _ + - . only'],
    ['é', 'may hold letters, digits and _ + - . only'],
  ])('refuses %j', (name, reason) => {
    expect(thrownBy(() => checkId('create', name))).toMatchObject({
      code: ErrorCode.InvalidArgument,
      message: `create: container id ${JSON.stringify(name)}: ${reason}`,
    });
    expect(thrownBy(() => store.save({ id: 'x', namespace: name })).code).toBe(ErrorCode.InvalidArgument);
  });

  it('shortens what it shows of a long name', () => {
    const error = thrownBy(() => checkNamespace('list', 'x'.repeat(100_000)));
    expect(error.message).toBe(`list: namespace "${'x'.repeat(64)}…": longer than 250 characters`);
  });
});

describe('StateStore', () => {
  it('saves, loads, replaces, lists and removes', () => {
    expect(store.list(undefined, noErrors)).toEqual([]);
    store.save(record('b'));
    store.save(record('a', { bundle: '/b/1' }));
    store.save(record('a', { bundle: '/b/2' }));
    store.save({ id: 'c', namespace: 'k8s.io' });
    expect(store.load('default', 'a')).toMatchObject({ id: 'a', bundle: '/b/2', schema: 1 });
    expect(store.list('default', noErrors).map(({ id }) => id)).toEqual(['a', 'b']);
    expect(store.list(undefined, noErrors).map(({ id }) => id)).toEqual(['a', 'b', 'c']);
    expect(store.namespaces()).toEqual(['default', 'k8s.io']);
    expect(store.exists('default', 'a')).toBe(true);
    store.remove('default', 'a');
    store.remove('default', 'a');
    expect(store.exists('default', 'a')).toBe(false);
    expect(thrownBy(() => store.load('default', 'a'))).toMatchObject({
      code: ErrorCode.NotFound,
      message: 'load a: container does not exist',
    });
  });

  it('saves later once, unless it is saved or removed first', async () => {
    const fail = (error: unknown): never => {
      throw error;
    };
    const [a, b, c] = [record('a'), record('b'), record('c')];
    for (const each of [a, b, c, a]) store.saveLater(each, fail);
    store.save(c);
    a.bundle = '/changed/meanwhile';
    store.remove('default', 'b');
    expect(store.exists('default', 'a')).toBe(false);
    await expect.poll(() => store.exists('default', 'a')).toBe(true);
    expect(store.list('default', noErrors).map(({ id }) => id)).toEqual(['a', 'c']);
    expect(store.load('default', 'a').bundle).toBe('/changed/meanwhile');
  });

  it('tells who asked when a save fails later, and saves the others', () => {
    const errors: unknown[] = [];
    mkdirSync(join(root, 'state'), { recursive: true });
    writeFileSync(join(root, 'state/tasks'), 'in the way');
    store.saveLater(record('a'), (error) => errors.push(error));
    store.saveLater(record('b'), (error) => errors.push(error));
    store.flush();
    expect(errors).toHaveLength(2);
    expect(errors[0]).toMatchObject({ op: 'save', id: 'a' });
  });

  it('keeps others out: records hold environments', () => {
    store.save(record('a'));
    expect(statSync(fileOf('a')).mode & 0o777).toBe(0o600);
    expect(statSync(join(root, 'state/tasks/default/a')).mode & 0o777).toBe(0o700);
    expect(statSync(join(root, 'state')).mode & 0o777).toBe(0o700);
  });

  it('round trips every field', () => {
    const text = fc.string({ maxLength: 20 });
    const process = fc.record({
      id: text,
      pid: fc.nat(4194304),
      pidStartTime: fc.maxSafeNat(),
      status: fc.integer({ min: 0, max: 5 }),
      exitCode: fc.nat(255),
      exitedAtNs: fc.maxSafeNat(),
      terminal: fc.boolean(),
      stdin: text,
      spec: fc.uint8Array({ maxLength: 50 }),
      exitPublished: fc.boolean(),
    });
    const container = fc.record({
      bundle: text,
      rootfs: text,
      wall: fc.constantFrom('namespace', 'vm', 'sentry'),
      createdAtNs: fc.maxSafeNat(),
      annotations: fc.dictionary(text, text),
      init: process,
      execs: fc.array(process, { maxLength: 3 }),
      cgroupPaths: fc.array(text, { maxLength: 3 }),
      privatePidNamespace: fc.boolean(),
      spec: fc.uint8Array({ maxLength: 50 }),
    });
    fc.assert(
      fc.property(container, (fields) => {
        store.save({ ...fields, id: 'x', namespace: 'default' });
        const loaded = store.load('default', 'x');
        const { Container } = bulkhead.state.v1;
        const plain = Container.decode(
          Container.encode({ ...fields, id: 'x', namespace: 'default', schema: 1 }).finish(),
        );
        expect(loaded).toEqual(plain);
        expect(loaded.annotations).toEqual(fields.annotations);
        expect(loaded.createdAtNs).toBe(fields.createdAtNs);
        expect(loaded.execs).toHaveLength(fields.execs.length);
      }),
      { numRuns: 100 },
    );
  });

  it('refuses a file of a newer version, naming it', () => {
    store.save(record('a'));
    writeFileSync(
      fileOf('a'),
      bulkhead.state.v1.Container.encode({ id: 'a', namespace: 'default', schema: 7 }).finish(),
    );
    expect(thrownBy(() => store.load('default', 'a'))).toMatchObject({
      code: ErrorCode.FailedPrecondition,
      path: fileOf('a'),
      message: `load a: ${fileOf('a')}: written by a newer version (schema 7, this one reads up to 1); use that version to delete the container`,
    });
  });

  it.each([
    ['empty', new Uint8Array(), /: state file is damaged: no schema number; kill what is left/],
    [
      'cut short',
      encodeRecord({ id: 'a', namespace: 'default', bundle: '/b' }).slice(0, -1),
      /: state file is damaged: /,
    ],
    [
      'noise',
      Uint8Array.from([255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
      /: state file is damaged: /,
    ],
    [
      'of another container',
      encodeRecord({ id: 'b', namespace: 'default' }),
      /: state file is damaged: it is the record of "default\/b"/,
    ],
  ])('names a file that is %s, and lists the others', (_, bytes, message) => {
    store.save(record('a'));
    store.save(record('b'));
    writeFileSync(fileOf('a'), bytes);
    const error = thrownBy(() => store.load('default', 'a'));
    expect(error).toMatchObject({ code: ErrorCode.Internal, path: fileOf('a') });
    expect(error.message).toMatch(message);
    const errors: RuntimeError[] = [];
    expect(store.list('default', (each) => errors.push(each)).map(({ id }) => id)).toEqual(['b']);
    expect(errors.map(({ id }) => id)).toEqual(['a']);
  });

  it('never loads anything but a record or an error, whatever is on disk', () => {
    store.save(record('a'));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        writeFileSync(fileOf('a'), bytes);
        try {
          expect(store.load('default', 'a').id).toBe('a');
        } catch (error) {
          expect(error).toBeInstanceOf(RuntimeError);
        }
      }),
    );
  });

  it('does not mind what a crash leaves, and sweeps it', () => {
    store.save(record('a', { bundle: '/whole' }));
    writeFileSync(`${fileOf('a')}.tmp`, 'half');
    mkdirSync(join(root, 'state/tasks/default/half'), { recursive: true });
    writeFileSync(`${fileOf('half')}.tmp`, 'half');
    expect(store.load('default', 'a').bundle).toBe('/whole');
    expect(store.list(undefined, noErrors).map(({ id }) => id)).toEqual(['a']);
    store.sweep();
    expect(readdirSync(join(root, 'state/tasks/default'))).toEqual(['a']);
    expect(readdirSync(join(root, 'state/tasks/default/a'))).toEqual(['state.pb']);
  });

  it('shows a reader the old record or the new one while another process writes', async () => {
    const long = 'x'.repeat(200_000);
    store.save(record('a', { bundle: long }));
    const writer = spawn(process.execPath, [
      '-e',
      `const fs = require('node:fs'); const f = ${JSON.stringify(fileOf('a'))}; const bytes = fs.readFileSync(f);
       for (let i = 0; i < 300; i++) { fs.writeFileSync(f + '.tmp', bytes); fs.renameSync(f + '.tmp', f); }`,
    ]);
    const ended = new Promise<number | null>((resolve) => writer.on('exit', resolve));
    let running = true;
    void ended.then(() => (running = false));
    let reads = 0;
    while (running) {
      expect(store.load('default', 'a').bundle).toHaveLength(long.length);
      reads++;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await ended).toBe(0);
    expect(reads).toBeGreaterThan(5);
  });

  it('says where it cannot write', () => {
    writeFileSync(join(root, 'state'), '');
    expect(thrownBy(() => store.save(record('a'))).message).toMatch(
      new RegExp(`^save a: ${root}/state/tasks/default/a/state.pb: .*ENOTDIR`),
    );
  });
});

describe('lock', () => {
  it('is held by one at a time, until disposed', () => {
    const flock = addon().flock;
    const first = store.lock('default', 'a', flock);
    expect(thrownBy(() => store.lock('default', 'a', flock, true))).toMatchObject({
      code: ErrorCode.Unavailable,
      message: 'lock a: another command is at work on this container',
    });
    using other = store.lock('default', 'b', flock, true);
    expect(other).toBeDefined();
    first[Symbol.dispose]();
    store.lock('default', 'a', flock, true)[Symbol.dispose]();
  });

  it('is taken anew when its holder removed the container meanwhile', () => {
    const held = store.lock('default', 'a', addon().flock);
    let waits = 0;
    // The first wait ends as the holder removes and leaves; the name then means another file.
    using second = store.lock('default', 'a', (fd, nonBlocking) => {
      if (waits++ === 0) {
        store.remove('default', 'a');
        held[Symbol.dispose]();
      }
      addon().flock(fd, nonBlocking);
    });
    expect(second).toBeDefined();
    expect(waits).toBe(2);
    expect(existsSync(join(root, 'state/locks/default/a.lock'))).toBe(true);
    expect(readFileSync(join(root, 'state/locks/default/a.lock'), 'utf8')).toBe('');
  });
});
