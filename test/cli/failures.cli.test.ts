import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Cli, isRunc, type Config } from './lib/cli.ts';

const cli = new Cli();
let good = '';
beforeAll(async () => {
  await cli.prepare();
  cli.configure((config) => {
    config.process.args = ['true'];
    good = JSON.stringify(config);
  });
});
beforeEach(() => writeFileSync(cli.configPath, good));
afterAll(() => cli.destroy());

interface Case {
  what: string;
  change: (config: Config) => void;
  /** What our sentence says: the object and the reason. */
  says: RegExp;
  code?: number;
  /** How the sentence begins, when it is not "create ID". */
  op?: string;
  /** runc of some versions lets it pass. */
  notRunc?: boolean;
}

const type = (name: string) => (namespace: Config) => namespace.type !== name;

const cases: Case[] = [
  {
    what: 'a root that is not there',
    change: (c) => (c.root.path = 'nowhere'),
    says: /bundle\/nowhere: no such file or directory/,
  },
  {
    what: 'a root that is a file',
    change: (c) => (c.root.path = 'config.json'),
    says: /config\.json: not a directory/,
  },
  { what: 'no root', change: (c) => delete c.root, says: /config\.json: root/ },
  {
    what: 'a mount whose source is not there',
    change: (c) =>
      c.mounts.push({ destination: '/mnt', type: 'bind', source: '/no/such', options: ['bind'] }),
    says: /\/no\/such: no such file or directory/,
  },
  {
    what: 'an unknown file system',
    change: (c) => c.mounts.push({ destination: '/mnt', type: 'nosuchfs', source: 'none' }),
    says: /nosuchfs|\/mnt/,
  },
  {
    what: 'a bad mount option',
    change: (c) =>
      c.mounts.push({ destination: '/mnt', type: 'tmpfs', source: 'tmpfs', options: ['size=many'] }),
    says: /tmpfs|\/mnt/,
  },
  {
    what: 'proc on a symlink',
    change: (c) => c.mounts.push({ destination: '/bin/sh', type: 'proc', source: 'proc' }),
    says: /\/bin\/sh/,
  },
  {
    what: 'a command that is not there',
    change: (c) => (c.process.args = ['nosuch']),
    says: /"nosuch": executable file not found in \$PATH/,
    code: 127,
  },
  {
    what: 'a path that is not there',
    change: (c) => (c.process.args = ['/no/such']),
    says: /"\/no\/such": no such file or directory/,
    code: 127,
  },
  {
    what: 'a command that is a directory',
    change: (c) => (c.process.args = ['/etc']),
    says: /"\/etc": permission denied/,
    code: 126,
  },
  {
    what: 'a command that is not executable',
    change: (c) => (c.process.args = ['/etc/passwd']),
    says: /"\/etc\/passwd": permission denied/,
    code: 126,
  },
  { what: 'no command', change: (c) => (c.process.args = []), says: /process\.args/ },
  { what: 'a relative cwd', change: (c) => (c.process.cwd = 'here'), says: /process\.cwd/ },
  {
    what: 'an unknown namespace',
    change: (c) => c.linux.namespaces.push({ type: 'gravity' }),
    says: /namespaces\[\d\]\.type.*"gravity"/,
  },
  { what: 'a namespace twice', change: (c) => c.linux.namespaces.push({ type: 'pid' }), says: /namespaces/ },
  {
    what: 'a namespace path that is not there',
    change: (c) =>
      (c.linux.namespaces = [
        ...c.linux.namespaces.filter(type('network')),
        { type: 'network', path: '/no/net' },
      ]),
    says: /\/no\/net: no such file or directory/,
  },
  {
    what: 'a namespace of another type',
    change: (c) =>
      (c.linux.namespaces = [
        ...c.linux.namespaces.filter(type('network')),
        { type: 'network', path: '/proc/self/ns/uts' },
      ]),
    says: /\/proc\/self\/ns\/uts: invalid argument/,
  },
  {
    what: 'a hostname without a uts namespace',
    change: (c) => (c.linux.namespaces = c.linux.namespaces.filter(type('uts'))),
    says: /hostname/,
  },
  {
    what: 'an unknown limit',
    change: (c) => c.process.rlimits.push({ type: 'RLIMIT_FUN', soft: 1, hard: 1 }),
    says: /RLIMIT_FUN/,
  },
  {
    what: 'a soft limit above the hard one',
    change: (c) => (c.process.rlimits = [{ type: 'RLIMIT_NOFILE', soft: 9, hard: 8 }]),
    says: /RLIMIT_NOFILE|rlimits/,
  },
  {
    what: 'a sysctl that is not there',
    change: (c) => (c.linux.sysctl = { 'net.ipv4.nosuch': '1' }),
    says: /net.ipv4.nosuch/,
  },
  {
    what: 'a sysctl of the host',
    change: (c) => (c.linux.sysctl = { 'vm.swappiness': '1' }),
    says: /vm\.swappiness/,
  },
  {
    what: 'a memory limit below what an init needs',
    change: (c) => (c.linux.resources.memory = { limit: 1, swap: -7 }),
    says: /memory/,
    notRunc: true,
  },
  {
    what: 'an unknown architecture in a seccomp profile',
    change: (c) =>
      (c.linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', architectures: ['SCMP_ARCH_PDP11'] }),
    says: /SCMP_ARCH_PDP11/,
    op: 'compile seccomp',
  },
  {
    what: 'an unknown seccomp action',
    change: (c) => (c.linux.seccomp = { defaultAction: 'SCMP_ACT_SHRUG' }),
    says: /SCMP_ACT_SHRUG/,
  },
  {
    what: 'a hook that is not there',
    change: (c) => (c.hooks = { createRuntime: [{ path: '/no/hook' }] }),
    says: /\/no\/hook/,
    op: 'hook \\S+',
  },
  {
    what: 'a hook with a relative path',
    change: (c) => (c.hooks = { poststop: [{ path: 'hook' }] }),
    says: /hooks\.poststop\[0\]\.path/,
    notRunc: true,
  },
  {
    what: 'a device that cannot be',
    change: (c) => (c.linux.devices = [{ path: '/dev/odd', type: 'q', major: 1, minor: 1 }]),
    says: /devices\[0\]\.type/,
  },
  {
    what: 'a cgroups path of systemd',
    change: (c) => (c.linux.cgroupsPath = 'a.slice:b:c'),
    says: /cgroupsPath|a\.slice:b:c/,
    notRunc: true,
  },
];

describe('a config.json with', () => {
  it.each(cases.filter(({ notRunc }) => !isRunc || notRunc !== true))(
    '$what',
    async ({ change, says, code, op }) => {
      cli.configure(change);
      for (const verb of ['run', 'create']) {
        const id = cli.id();
        const result = await cli.run(['--log-format', 'json', verb, id], { stdin: '' });
        expect(result.code, result.stderr).not.toBe(0);
        if (!isRunc) {
          const { level, msg } = JSON.parse(result.stderr);
          expect([level, msg]).toEqual(['error', expect.stringMatching(says)]);
          expect(msg).toMatch(new RegExp(`^${op ?? `create ${id}`}: `));
          expect(result.code).toBe(verb === 'run' ? (code ?? 1) : 1);
        }
        expect(cli.leftovers(), verb).toEqual([]);
        expect((await cli.run(['state', id])).code).toBe(1);
      }
    },
  );
});

describe('a bundle', () => {
  it.each([
    ['without config.json', () => rmSync(cli.configPath), /config\.json: no such file/],
    ['with a config.json that is not JSON', () => writeFileSync(cli.configPath, '{"oci'), /config\.json/],
    ['with an empty config.json', () => writeFileSync(cli.configPath, ''), /config\.json/],
    ['with a config.json of another kind', () => writeFileSync(cli.configPath, '[]'), /config\.json/],
  ])('%s', async (_what, damage, says) => {
    damage();
    const result = await cli.run(['run', cli.id()]);
    expect(result.code).toBe(1);
    if (!isRunc) expect(result.stderr).toMatch(says);
    expect(cli.leftovers()).toEqual([]);
  });
});

describe('an invocation with', () => {
  it.each([
    ['a pid file that cannot be written', ['run', '--pid-file', '/no/such/pid', '$ID'], /\/no\/such\/pid/],
    ['a bad id', ['run', 'a/b'], /a\/b/],
    ['an empty id', ['run', ''], /container id/],
    ['two ids', ['run', 'a', 'b'], /argument/],
    ['no id', ['start'], /argument/],
    ['an unknown flag', ['run', '--frobnicate', '$ID'], /frobnicate/],
    ['a flag without its value', ['run', '$ID', '--bundle'], /bundle/],
    ['a number that is none', ['run', '--preserve-fds', 'many', '$ID'], /many/],
    ['descriptors that are not open', ['run', '--preserve-fds', '200', '$ID'], /descriptor|fd/],
    ['an unknown command', ['frobnicate'], /frobnicate/],
    ['an unknown format', ['list', '--format', 'xml'], /xml|format/],
    ['an unknown log format', ['--log-format', 'xml', 'list'], /xml/],
  ])('%s', async (_what, words, says) => {
    const result = await cli.run(words.map((word) => (word === '$ID' ? cli.id() : word)));
    if (isRunc && words[0] === 'frobnicate') return;
    expect(result.code).not.toBe(0);
    if (!isRunc) expect(result.stderr).toMatch(says);
    expect(cli.leftovers()).toEqual([]);
  });

  it('a console socket that is not there', async () => {
    cli.configure((config) => (config.process.terminal = true));
    const result = await cli.run(['run', '-d', '--console-socket', '/no/such.sock', cli.id()]);
    expect([result.code, result.stderr]).toEqual([1, expect.stringContaining('no such file')]);
    expect(cli.leftovers()).toEqual([]);
  });

  it('a state root that cannot be made', async () => {
    const file = join(cli.dir, 'file');
    writeFileSync(file, '');
    chmodSync(file, 0o600);
    const result = await cli.run(['--root', join(file, 'state'), 'run', cli.id()]);
    expect(result.code).toBe(1);
    if (!isRunc) expect(result.stderr).toContain(file);
    expect(cli.leftovers()).toEqual([]);
  });
});
