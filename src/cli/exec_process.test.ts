import { describe, expect, it } from 'vitest';
import { parseArguments } from './flags.ts';
import { exec } from './commands/exec.ts';
import { execProcess } from './exec_process.ts';
import type { Process } from '../oci/types.ts';

const own: Process = {
  terminal: true,
  consoleSize: { width: 80, height: 24 },
  user: { uid: 5, gid: 6, additionalGids: [7] },
  args: ['init'],
  env: ['PATH=/bin'],
  cwd: '/work',
  noNewPrivileges: true,
  capabilities: {
    bounding: ['CAP_KILL'],
    effective: ['CAP_KILL'],
    permitted: ['CAP_KILL'],
    ambient: ['CAP_KILL'],
  },
};
const of = (...words: string[]): Process => {
  const args = parseArguments(words, { verb: 'exec', flags: exec.flags, flagsFirst: true });
  return execProcess('web-1', own, args, '/');
};

describe('execProcess', () => {
  it('takes what flags do not say from the container’s process', () => {
    expect(of('web-1', 'ls', '-l')).toMatchObject({
      terminal: false,
      user: { uid: 5, gid: 6, additionalGids: [7] },
      args: ['ls', '-l'],
      env: ['PATH=/bin'],
      cwd: '/work',
      noNewPrivileges: true,
      capabilities: own.capabilities,
    });
    expect(of('web-1', 'ls').consoleSize).toBeUndefined();
  });

  it('changes what flags say', () => {
    const flags = [
      '-t',
      '--cwd',
      '/',
      '-e',
      'A=1',
      '-e',
      'B=',
      '-u',
      '0:1',
      '-g',
      '8',
      '--no-new-privs=false',
    ];
    expect(of(...flags, 'web-1', 'ls')).toMatchObject({
      terminal: true,
      cwd: '/',
      env: ['PATH=/bin', 'A=1', 'B='],
      user: { uid: 0, gid: 1, additionalGids: [7, 8] },
      noNewPrivileges: false,
    });
  });

  it('adds capabilities to all sets but inheritable and ambient', () => {
    expect(of('-c', 'net_admin', '--cap', 'CAP_CHOWN', 'web-1', 'ls').capabilities).toEqual({
      bounding: ['CAP_KILL', 'CAP_NET_ADMIN', 'CAP_CHOWN'],
      effective: ['CAP_KILL', 'CAP_NET_ADMIN', 'CAP_CHOWN'],
      permitted: ['CAP_KILL', 'CAP_NET_ADMIN', 'CAP_CHOWN'],
      ambient: ['CAP_KILL'],
    });
  });

  it.each([
    [['web-1'], 'exec: needs a command, or --process; see bulkhead exec --help'],
    [
      ['-u', 'root', 'web-1', 'ls'],
      'exec: flag --user: "root" is not a numeric id; see bulkhead exec --help',
    ],
    [['-u', '1:2:3', 'web-1', 'ls'], 'exec: flag --user: "1:2:3" is not UID[:GID]; see bulkhead exec --help'],
    [
      ['-u', '4294967296', 'web-1', 'ls'],
      'exec: flag --user: "4294967296" is not a numeric id; see bulkhead exec --help',
    ],
    [
      ['-g', 'wheel', 'web-1', 'ls'],
      'exec: flag --additional-gids: "wheel" is not a numeric id; see bulkhead exec --help',
    ],
    [['-p', '/no/such', 'web-1'], "exec web-1: /no/such: ENOENT: no such file or directory, open '/no/such'"],
  ])('refuses %j', (words, message) => {
    expect(() => of(...words)).toThrow(expect.objectContaining({ message }));
  });
});
