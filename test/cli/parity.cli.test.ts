/**
 * The same configuration on runc and on the command under test: what the container sees of itself must be the same.
 * A probe inside prints its mounts with attributes and propagation, /dev, credentials, limits, environment and more.
 * Where we differ on purpose, `normalise` says so. (Under BULKHEAD_TEST_CLI=runc this compares runc with itself, which
 * proves the probe.) What Debian's runc does not have is tested at the end, by what the container must see.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaultSpec } from '../../src/oci/spec.ts';
import { run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program, type Config } from './lib/cli.ts';

const cli = new Cli();
beforeAll(async () => {
  await cli.prepare();
  mkdirSync(join(cli.bundle, 'data/sub'), { recursive: true });
  writeFileSync(join(cli.bundle, 'data/file'), 'hello\n');
});
afterAll(() => cli.destroy());

const probe = `
echo "== mounts"
awk '{
  for (i = 7; i <= NF; i++) if ($i == "-") end = i
  tags = ""
  for (i = 7; i < end; i++) { sub(/:.*/, "", $i); tags = tags " " $i }
  print $5, $6, tags, $(end + 1), $(end + 3), $4
}' /proc/self/mountinfo | sort
echo "== dev"; cd /dev; find . | sort | while read -r node; do stat -c '%N %A %u:%g %t:%T' "$node"; done
cd /; echo "== status"; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask)' /proc/self/status
echo "== limits"; cat /proc/self/limits
echo "== environment"; env | sort
echo "== names"; hostname; cat /proc/sys/kernel/domainname; uname -m
echo "== process"; cat /proc/self/oom_score_adj; readlink /proc/1/cwd; ls /proc/self/fd
echo "== network"; ip link | grep -E '^[0-9]'
echo "== more"; eval "$MORE"
`;

/** A configuration that both take, as loose JSON. */
function baseConfig(change: (config: Config) => void): Config {
  const config: Config = defaultSpec();
  config.ociVersion = '1.0.2';
  config.process.terminal = false;
  config.process.args = ['sh', '-c', probe];
  config.hostname = 'parity';
  change(config);
  return config;
}

/** What may differ, and why. */
function normalise(text: string, id: string): string {
  return (
    text
      .replaceAll(id, 'ID')
      .replaceAll(cli.bundle, 'BUNDLE')
      .replace(/"pid":\d+/g, '"pid":N')
      // The version of the specification that each writes its state by.
      .replace(/"ociVersion":"1\.[^"]+"/g, '"ociVersion":"1"')
      // Ours shows the container's cgroup of a hybrid host's cgroup2 mount too.
      .replace(/^\/sys\/fs\/cgroup\/unified .*\n/gm, '')
      // Ours keeps the tmpfs of a read-only cgroup mount read-only; runc leaves it writable.
      .replace(/^(\/sys\/fs\/cgroup) r[ow],/gm, '$1 r?,')
      // "ro" of sysfs: ours makes the mount read-only, and not the superblock that a pod's containers share.
      .replace(/^(\/sys ro,.* sysfs) r[ow] /gm, '$1 r? ')
      // Masked directories: ours are nosuid, nodev and noexec too.
      .replace(/^(\/\S+) ro,\S*\s+(\S* )*tmpfs ro\S* \/$/gm, '$1 masked')
  );
}

/** Mount points that one run has made would be found by the next. */
function cleanRootfs(): void {
  for (const name of ['vol', 't1', 't4', 'made']) {
    rmSync(join(cli.bundle, 'rootfs', name), { recursive: true, force: true });
  }
}

async function report(command: string, id: string): Promise<string> {
  cleanRootfs();
  const result = await run(command, ['--root', join(cli.dir, `parity-${id}`), 'run', id], {
    cwd: cli.bundle,
    stdin: '',
    timeout: 30_000,
  });
  return normalise(`${result.stdout}== stderr\n${result.stderr}== exit ${result.code}\n`, id);
}

const bind = (name: string, options: string[]): Config => ({
  destination: `/vol/${name}`,
  type: 'bind',
  source: 'data',
  options,
});
const writable = (config: Config): void => void (config.root.readonly = false);
const more = (config: Config, script: string): void => void config.process.env.push(`MORE=${script}`);
const userNamespace = (config: Config): void => {
  config.linux.namespaces.push({ type: 'user' });
  // Id 0 is the host's, so that the rootfs of the test can be written to.
  config.linux.uidMappings = [
    { containerID: 0, hostID: 0, size: 1 },
    { containerID: 1, hostID: 100001, size: 65535 },
  ];
  config.linux.gidMappings = config.linux.uidMappings;
};

const variations: Record<string, (config: Config) => void> = {
  'the default': () => {},
  'a writable root': writable,
  'a user with groups, umask and a directory to make': (config) => {
    config.process.user = { uid: 1000, gid: 1000, additionalGids: [5, 6], umask: 0o77 };
    config.process.cwd = '/made/here';
    writable(config);
  },
  'a user who is not in passwd': (config) => void (config.process.user = { uid: 4242, gid: 4242 }),
  'no capabilities at all': (config) => void delete config.process.capabilities,
  'ambient capabilities': (config) => {
    const names = ['CAP_KILL', 'CAP_NET_BIND_SERVICE'];
    const sets = ['bounding', 'effective', 'permitted', 'inheritable', 'ambient'];
    config.process.capabilities = Object.fromEntries(sets.map((set) => [set, names]));
    config.process.user = { uid: 1000, gid: 1000 };
  },
  'privileges that can grow': (config) => void (config.process.noNewPrivileges = false),
  'bind mounts with every option': (config) => {
    writable(config);
    const options = [
      ...[
        ['ro'],
        ['rw', 'nosuid'],
        ['noexec', 'noatime'],
        ['strictatime'],
        ['nodiratime'],
        ['nodev', 'relatime'],
      ],
      ...[['rro'], ['ro', 'rw'], ['rw', 'ro'], [], ['defaults']],
    ];
    options.forEach((list, index) => config.mounts.push(bind(`o${index}`, ['rbind', ...list])));
    for (const kind of ['private', 'slave', 'shared', 'unbindable']) {
      config.mounts.push(bind(kind, ['rbind', kind]), bind(`r${kind}`, ['rbind', `r${kind}`]));
    }
    config.mounts.push({ ...bind('file', ['bind', 'ro']), source: join(cli.bundle, 'data/file') });
  },
  'tmpfs with modes, contents and propagation': (config) => {
    writable(config);
    config.mounts.push(
      { destination: '/t1', type: 'tmpfs', source: 'tmpfs', options: ['size=1m', 'ro'] },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: ['noexec'] },
      { destination: '/etc', type: 'tmpfs', source: 'tmpfs', options: ['tmpcopyup', 'mode=700'] },
      { destination: '/bin/../t4', type: 'tmpfs', source: 'x', options: ['mode=1777', 'rshared'] },
    );
    more(config, 'ls -ln /etc; stat -c "%a %n" /t1 /tmp /etc /t4');
  },
  'a read-only /dev': (config) => {
    config.mounts.find(({ destination }: Config) => destination === '/dev').options.push('ro');
  },
  'devices of its own': (config) => {
    config.linux.devices = [
      { path: '/dev/zero', type: 'c', major: 1, minor: 5, fileMode: 0o660, uid: 7, gid: 8 },
      { path: '/dev/loop77', type: 'b', major: 7, minor: 77 },
      { path: '/dev/dir/pipe', type: 'p', fileMode: 0o600, uid: 1 },
    ];
  },
  'masked and read-only paths': (config) => {
    config.linux.maskedPaths.push('/etc', '/home/guest', '/not/there');
    config.linux.readonlyPaths.push('/usr', '/not/there');
    writable(config);
    more(config, 'touch /usr/x; ls /etc');
  },
  'a private root': (config) => {
    config.linux.rootfsPropagation = 'rprivate';
    config.mounts.push(bind('v', ['rbind']));
    writable(config);
  },
  'namespaces of the host': (config) => {
    config.linux.namespaces = config.linux.namespaces.filter(
      ({ type }: Config) => type === 'mount' || type === 'pid',
    );
    config.mounts = config.mounts.filter(({ type }: Config) => !['sysfs', 'cgroup', 'mqueue'].includes(type));
    delete config.hostname;
  },
  'a user namespace': userNamespace,
  'a user namespace, another user and volumes': (config) => {
    userNamespace(config);
    config.process.user = { uid: 33, gid: 33, additionalGids: [44] };
    config.mounts.push(bind('v', ['rbind', 'ro']));
    writable(config);
    // The owner of a new mqueue is the one who clones: runc's is mapped already, ours is not. Its mode is 1777.
    config.mounts = config.mounts.filter(({ type }: Config) => type !== 'mqueue');
  },
  'a cgroup namespace': (config) => void config.linux.namespaces.push({ type: 'cgroup' }),
  sysctls: (config) => {
    config.linux.sysctl = { 'net.ipv4.ip_forward': '1', 'kernel.shmmni': '100', 'kernel.domainname': 'lab' };
    more(config, 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni');
  },
  limits: (config) => {
    config.process.rlimits = [
      { type: 'RLIMIT_NOFILE', hard: 512, soft: 256 },
      { type: 'RLIMIT_CORE', hard: 0, soft: 0 },
      { type: 'RLIMIT_AS', hard: 1e9, soft: 1e9 },
    ];
    config.process.oomScoreAdj = 500;
  },
  'seccomp after dropping privileges': (config) => {
    writable(config);
    config.linux.seccomp = {
      defaultAction: 'SCMP_ACT_ALLOW',
      syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 }],
    };
    more(config, 'mkdir /x || echo refused');
  },
  'seccomp before dropping privileges': (config) => {
    variations['seccomp after dropping privileges']?.(config);
    config.process.noNewPrivileges = false;
  },
  'hooks of the container': (config) => {
    writable(config);
    config.mounts.push(bind('out', ['rbind']));
    const script = (to: string): string[] => ['sh', '-c', `cat > ${to}`];
    config.hooks = {
      createContainer: [{ path: '/bin/sh', args: script(join(cli.bundle, 'data/create')) }],
      startContainer: [{ path: '/bin/sh', args: script('/vol/out/start') }],
    };
    more(config, 'cat /vol/out/create /vol/out/start');
  },
  'a procfs that hides': (config) => {
    config.mounts.find(({ type }: Config) => type === 'proc').options = ['hidepid=2', 'nosuid'];
  },
  'a file of /proc replaced': (config) => {
    config.mounts.push({
      destination: '/proc/uptime',
      type: 'bind',
      source: 'data/file',
      options: ['bind', 'ro'],
    });
    more(config, 'cat /proc/uptime');
  },
  '/sys of the host': (config) => {
    config.mounts = config.mounts.filter(({ type }: Config) => type !== 'sysfs' && type !== 'cgroup');
    config.mounts.push({
      destination: '/sys',
      type: 'none',
      source: '/sys',
      options: ['rbind', 'nosuid', 'ro'],
    });
  },
  'repeated variables': (config) => void config.process.env.push('A=1', 'B=2', 'A=3'),
  'an exit status': (config) => void (config.process.args = ['sh', '-c', 'exit 37']),
  'death by a signal': (config) => void (config.process.args = ['sh', '-c', 'kill -KILL $$']),
};

describe('what a container sees of itself is what it sees on runc', () => {
  it.each(Object.keys(variations))('%s', async (name) => {
    writeFileSync(cli.configPath, JSON.stringify(baseConfig(variations[name] ?? (() => {}))));
    const theirs = await report('runc', cli.id('theirs'));
    const ours = await report(program, cli.id('ours'));
    expect(ours).toBe(theirs);
    expect(theirs).toMatch(/== exit (0|37|137)\n$/);
    expect(cli.leftovers()).toEqual([]);
  });
});

/** What Debian 12's runc (1.1.5) does not do, or not so. */
const ownTests: Record<string, { change: (config: Config) => void; script: string; sees: string }> = {
  'a shared root, and volumes with it': {
    change: (config) => {
      config.linux.rootfsPropagation = 'rshared';
      writable(config);
    },
    script: `cut -d' ' -f5-8 /proc/self/mountinfo | grep -c '^/ .*shared:'`,
    sees: '1\n',
  },
  'offsets of a time namespace': {
    change: (config) => {
      config.linux.namespaces.push({ type: 'time' });
      config.linux.timeOffsets = { monotonic: { secs: 1000, nanosecs: 5 }, boottime: { secs: 2000 } };
    },
    script: 'cat /proc/self/timens_offsets; awk \'{ print ($1 > 2000) ? "late" : "early" }\' /proc/uptime',
    sees: 'monotonic        1000         5\nboottime         2000         0\nlate\n',
  },
  'a personality': {
    change: (config) => void (config.linux.personality = { domain: 'LINUX32' }),
    script: 'cat /proc/self/personality',
    sees: '00000008\n',
  },
  'an id-mapped volume': {
    change: (config) => {
      const ids = [{ containerID: 0, hostID: 5000, size: 100 }];
      config.mounts.push({ ...bind('mapped', ['rbind', 'ro']), uidMappings: ids, gidMappings: ids });
      writable(config);
    },
    script: 'stat -c "%u:%g" /vol/mapped/file',
    sees: '5000:5000\n',
  },
  'scheduling and I/O priority': {
    change: (config) => {
      config.process.scheduler = { policy: 'SCHED_BATCH', nice: 5 };
      config.process.ioPriority = { class: 'IOPRIO_CLASS_BE', priority: 6 };
    },
    // proc_pid_stat(5): 19 is the nice value, 41 the policy; 3 is SCHED_BATCH.
    script: `ionice -p $$; cut -d' ' -f19,41 /proc/self/stat`,
    sees: 'best-effort: prio 6\n5 3\n',
  },
};

if (!isRunc) {
  describe('what a container sees that runc 1.1 does not have', () => {
    it.each(Object.keys(ownTests))('%s', async (name) => {
      const test = ownTests[name];
      if (test === undefined) throw new Error(name);
      const config = baseConfig(test.change);
      config.process.args = ['sh', '-c', test.script];
      writeFileSync(cli.configPath, JSON.stringify(config));
      const id = cli.id('own');
      const result = await run(program, ['--root', join(cli.dir, 'own'), 'run', id], {
        cwd: cli.bundle,
        stdin: '',
      });
      expect([result.stderr, result.stdout, result.code]).toEqual(['', test.sees, 0]);
      expect(cli.leftovers()).toEqual([]);
    });

    it('keeps its own root file system off the host', () => {
      expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(cli.bundle);
    });
  });
}
