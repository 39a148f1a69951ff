import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { parseArguments } from './flags.ts';
import { globalFlags, readGlobals } from './globals.ts';

const read = (words: string[], env: NodeJS.ProcessEnv = {}, uid = 0) =>
  readGlobals(parseArguments(words, { verb: 'bulkhead', flags: globalFlags, flagsFirst: true }), env, uid);

describe('readGlobals', () => {
  it.each([
    [[], {}, 0, '/run/bulkhead/cli'],
    [[], { XDG_RUNTIME_DIR: '/run/user/0' }, 0, '/run/bulkhead/cli'],
    [[], { XDG_RUNTIME_DIR: '/run/user/7' }, 7, '/run/user/7/bulkhead/cli'],
    [['--rootless', 'true'], { XDG_RUNTIME_DIR: '/run/user/0' }, 0, '/run/user/0/bulkhead/cli'],
    [['--rootless=false'], { XDG_RUNTIME_DIR: '/run/user/7' }, 7, '/run/bulkhead/cli'],
    [[], { BULKHEAD_ROOT: '/b', XDG_RUNTIME_DIR: '/run/user/7' }, 7, '/b/cli'],
    [['--root', '/r'], { BULKHEAD_ROOT: '/b' }, 0, '/r'],
  ])('%j with %j as %i keeps state in %s', (words, env, uid, root) => {
    expect(read(words, env, uid).root).toBe(root);
  });

  it('reads the log’s place and format', () => {
    expect(read(['--debug', '--log', '/l', '--log-format', 'json'])).toMatchObject({
      debug: true,
      log: '/l',
      logFormat: 'json',
    });
    expect(read(['--log='])).toMatchObject({ debug: false, log: undefined, logFormat: 'text' });
  });

  it.each([
    [['--log-format', 'xml'], ErrorCode.InvalidArgument, /"xml" is neither text nor json/],
    [['--rootless', 'maybe'], ErrorCode.InvalidArgument, /"maybe" is none of true, false, auto/],
    [
      ['--systemd-cgroup'],
      ErrorCode.Unimplemented,
      /--systemd-cgroup: the systemd cgroup driver is not in this version/,
    ],
  ])('refuses %j', (words, code, message) => {
    expect(() => read(words)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});
