import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { defaultSpec } from '../spec.ts';
import { parseProcess, parseResources, parseSpec } from './index.ts';

/** Message and code of what a call refuses with. */
function refusal(call: () => unknown): [number, string] {
  try {
    call();
  } catch (error) {
    if (error instanceof RuntimeError) return [error.code, error.message];
    throw error;
  }
  throw new Error('was accepted');
}

describe('parseSpec', () => {
  it('takes what defaultSpec writes, for root and for others', () => {
    const rootless = defaultSpec({ rootless: { uid: 1000, gid: 1000 }, cgroupNamespace: true });
    for (const spec of [defaultSpec(), defaultSpec({ cgroupNamespace: true }), rootless]) {
      expect(parseSpec(JSON.stringify(spec), 'x')).toEqual(spec);
    }
    expect(rootless.linux.namespaces?.map(({ type }) => type)).toEqual([
      'pid',
      'ipc',
      'uts',
      'mount',
      'cgroup',
      'user',
    ]);
  });

  it('keeps unknown fields, drops null ones and fills in what Go leaves zero', () => {
    const text = JSON.stringify({
      ociVersion: '1.0.0',
      process: { args: ['true'], cwd: '/', env: null, user: null, ioPriority: { class: 'IOPRIO_CLASS_BE' } },
      root: { path: 'rootfs', 'x-extra': 1 },
      hooks: null,
      futureField: { deep: [null] },
    });
    expect(parseSpec(text, 'x')).toEqual({
      ociVersion: '1.0.0',
      process: {
        args: ['true'],
        cwd: '/',
        user: { uid: 0, gid: 0 },
        ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 0 },
      },
      root: { path: 'rootfs', 'x-extra': 1 },
      futureField: { deep: [null] },
      linux: {},
    });
  });

  it('names the field, the id and the verb', () => {
    const text = JSON.stringify({ ...defaultSpec(), hostname: 'x'.repeat(65) });
    expect(refusal(() => parseSpec(text, 'web-1', 'run'))).toEqual([
      ErrorCode.InvalidArgument,
      'run web-1: config.json: hostname: is 65 characters long, at most 64 are possible',
    ]);
  });

  it('shortens what it shows', () => {
    const spec = defaultSpec();
    spec.process.cwd = 'y'.repeat(4000);
    const [, message] = refusal(() => parseSpec(JSON.stringify(spec), 'x'));
    expect(message).toBe(
      `create x: config.json: process.cwd: must be an absolute path, is "${'y'.repeat(63)}…" (4000 characters)`,
    );
  });

  it.each([
    [5 * 1024 * 1024, 'is 5242880 characters long, at most 4194304 are read'],
    [0, 'is not JSON: unexpected end or token'],
  ])('bounds the text: %d characters', (length, reason) => {
    expect(refusal(() => parseSpec(' '.repeat(length), 'x'))[1]).toBe(`create x: config.json: ${reason}`);
  });

  it.each([100, 100_000])('bounds the nesting, also of a text with %d brackets', (count) => {
    const text = `{"annotations":${'['.repeat(count)}${']'.repeat(count)}}`;
    expect(refusal(() => parseSpec(text, 'x'))[1]).toBe(
      'create x: config.json: is nested deeper than 64 levels',
    );
  });

  it('does not count brackets inside strings as nesting', () => {
    const spec = { ...defaultSpec(), annotations: { a: '[{"\\['.repeat(100) } };
    expect(parseSpec(JSON.stringify(spec), 'x').annotations).toEqual(spec.annotations);
  });

  it('takes a path-joined user namespace with the mappings it is known to have, as containerd sends them', () => {
    const spec = defaultSpec();
    spec.linux.namespaces?.push({ type: 'user', path: '/proc/7/ns/user' });
    spec.linux.uidMappings = [{ containerID: 0, hostID: 1000, size: 10 }];
    expect(parseSpec(JSON.stringify(spec), 'x').linux.uidMappings).toEqual(spec.linux.uidMappings);
  });
});

describe('parseProcess', () => {
  it('names fields without the prefix of config.json', () => {
    expect(refusal(() => parseProcess('{"args":["sh"],"cwd":"x"}', 'web-1/e1'))).toEqual([
      ErrorCode.InvalidArgument,
      'exec web-1/e1: process: cwd: must be an absolute path, is "x"',
    ]);
  });

  it.each([
    ['{"args":["sh"],"cwd":"/","execCPUAffinity":{"initial":"3-1"}}', 'execCPUAffinity.initial'],
    ['{"args":["sh"],"cwd":"/","scheduler":{"policy":"SCHED_FIFO","priority":100}}', 'scheduler.priority'],
    ['{"args":["sh"],"cwd":"/","scheduler":{"policy":"SCHED_OTHER","priority":1}}', 'scheduler.priority'],
    [
      '{"args":["sh"],"cwd":"/","ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}}',
      'ioPriority.priority',
    ],
    ['{"args":["sh"],"cwd":"/","oomScoreAdj":1001}', 'oomScoreAdj'],
    ['{"args":["sh"],"cwd":"/","user":{"uid":4294967295}}', 'user.uid'],
    ['{"args":["sh"],"cwd":"/","user":{"umask":512}}', 'user.umask'],
    ['{"cwd":"/"}', 'args'],
    ['{"args":[""],"cwd":"/"}', 'args[0]'],
  ])('%s', (text, field) => {
    const [code, message] = refusal(() => parseProcess(text, 'x'));
    expect(code).toBe(ErrorCode.InvalidArgument);
    expect(message.startsWith(`exec x: process: ${field}: `)).toBe(true);
  });
});

describe('parseResources', () => {
  it('takes what containerd sends for an update', () => {
    const resources = {
      memory: { limit: 1048576, swap: -1 },
      cpu: { shares: 512, cpus: '0-1' },
      pids: { limit: 0 },
    };
    expect(parseResources(JSON.stringify(resources), 'x')).toEqual(resources);
  });

  it('refuses a limit that is text', () => {
    expect(refusal(() => parseResources('{"memory":{"limit":"64m"}}', 'x'))).toEqual([
      ErrorCode.InvalidArgument,
      'update x: resources: memory.limit: must be an integer, is "64m"',
    ]);
  });
});
