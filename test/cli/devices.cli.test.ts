import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Cli, isRunc, type Config } from './lib/cli.ts';

const cli = new Cli();
const specDir = join(cli.dir, 'cdi');
beforeAll(() => cli.prepare());
afterAll(() => cli.destroy());

/** A device node that is not among a container's own (/dev/zero's numbers under another name), a variable, a mount. */
const spec = (kind: string, value: string): object => ({
  cdiVersion: '1.1.0',
  kind,
  containerEdits: { env: ['SHARED=yes'] },
  devices: [
    {
      name: 'zero',
      containerEdits: {
        env: [`DEVICE=${value}`],
        deviceNodes: [{ path: '/dev/made/zero', hostPath: '/dev/zero', fileMode: 0o640, permissions: 'rw' }],
        mounts: [
          {
            hostPath: join(cli.dir, 'shared'),
            containerPath: '/made/shared',
            options: ['ro', 'nosuid', 'bind'],
          },
        ],
        additionalGids: [4711],
      },
    },
    { name: 'other', containerEdits: { env: ['OTHER=1'] } },
  ],
});

const script =
  'ls -ln /dev/made/zero; head -c 4 /dev/made/zero | wc -c; echo $DEVICE $SHARED $OTHER; cat /made/shared/file; ' +
  'touch /made/shared/x 2>/dev/null || echo read-only; id -G';
const seen = /^crw-r-----.* 1, *5 .*\/dev\/made\/zero\n4\nheld yes *\nhello\nread-only\n.*\b4711\b/;

/** Only a machine with NVIDIA's driver can show that a container finds its GPUs: it runs the driver's own program. */
describe.skipIf(isRunc || !existsSync('/proc/driver/nvidia/version'))(
  'the NVIDIA driver of this machine',
  () => {
    it('is found by a container without NVIDIA’s toolkit', async () => {
      const dir = join(cli.dir, 'nvidia-cdi');
      await cli.ok(
        'devices',
        'cdi',
        'generate',
        '--kind',
        'nvidia.com/gpu',
        '--output',
        join(dir, 'gpu.json'),
      );
      const gpus = readdirSync('/proc/driver/nvidia/gpus');
      const information = gpus.map((gpu) =>
        readFileSync(`/proc/driver/nvidia/gpus/${gpu}/information`, 'utf8'),
      );
      const uuids = information.map((text) => /GPU UUID:\s*(\S+)/.exec(text)?.[1] ?? '');
      cli.configure((config) => {
        config.process.args = ['nvidia-smi', '-L'];
        // nvidia-smi needs a C library, which the test's root does not have: the host's, read-only.
        for (const path of ['/lib', '/lib64', '/usr/lib'].filter(existsSync)) {
          config.mounts.push({ destination: path, source: path, type: 'bind', options: ['rbind', 'ro'] });
        }
      });
      const result = await cli.run([
        'run',
        '--cdi-spec-dir',
        dir,
        '--device',
        'nvidia.com/gpu=all',
        cli.id(),
      ]);
      expect(result).toMatchObject({ code: 0 });
      for (const uuid of uuids) expect(result.stdout).toContain(uuid);
      expect((await cli.run(['devices', 'selftest'])).code).toBe(0);
    });
  },
);

describe.skipIf(isRunc)('devices by name', () => {
  beforeEach(() => {
    rmSync(specDir, { recursive: true, force: true });
    mkdirSync(specDir);
    mkdirSync(join(cli.dir, 'shared'), { recursive: true });
    writeFileSync(join(cli.dir, 'shared', 'file'), 'hello\n');
    writeFileSync(join(specDir, 'made.json'), JSON.stringify(spec('bulkhead.test/made', 'held')));
    cli.configure((config) => {
      config.process.args = ['sh', '-c', script];
      config.annotations = {};
    });
  });

  const run = (...flags: string[]): ReturnType<Cli['run']> =>
    cli.run(['run', '--cdi-spec-dir', specDir, ...flags, cli.id()]);

  it('gives a container a device node, variables, a mount and a group', async () => {
    const result = await run('--device', 'bulkhead.test/made=zero');
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(seen);
    expect(cli.leftovers()).toEqual([]);
  });

  it('tells the loader of a GPU’s libraries, by the image’s own cache', async () => {
    const library = join(cli.dir, 'shared', 'file');
    const names = ['libcuda.so.570.86.15', 'libcuda.so.1'];
    const mounts = names.map((name) => ({
      hostPath: library,
      containerPath: `/usr/lib64/${name}`,
      options: ['ro', 'bind'],
    }));
    const devices = [{ name: 'gpu', containerEdits: { mounts } }];
    const file = { cdiVersion: '0.5.0', kind: 'bulkhead.test/nvidia', devices };
    writeFileSync(join(specDir, 'nvidia.json'), JSON.stringify(file));
    cli.configure((config) => {
      config.process.args = ['sh', '-c', 'tr "\\0" "\\n" < /etc/ld.so.cache; cat /usr/lib64/libcuda.so.1'];
      config.root.readonly = true;
    });
    const result = await run('--device', 'bulkhead.test/nvidia=gpu');
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(/^glibc-ld\.so\.cache1\.1/);
    expect(result.stdout).toContain('\nlibcuda.so.1\n/usr/lib64/libcuda.so.1\nhello\n');
    expect(cli.leftovers()).toEqual([]);
  });

  // CVE-2025-23266: a hook of NVIDIA's toolkit ran on the host with the image's LD_PRELOAD. The hooks of a spec have the
  // environment that the spec gives them, and begin at the root of the host.
  it.each(['createRuntime', 'createContainer'])(
    'runs a spec’s %s hook without the image’s environment',
    async (hookName) => {
      const log = join(cli.dir, `${hookName}.log`);
      const program = `{ env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; pwd; cat; } >${log}`;
      const hooks = [{ hookName, path: '/bin/sh', args: ['nvidia-cdi-hook', '-c', program], env: ['OWN=1'] }];
      const file = {
        cdiVersion: '0.5.0',
        kind: 'bulkhead.test/hooked',
        devices: [{ name: 'gpu', containerEdits: { hooks, env: ['FROM_SPEC=1'] } }],
      };
      writeFileSync(join(specDir, 'hooked.json'), JSON.stringify(file));
      const before = readFileSync(cli.configPath, 'utf8');
      cli.configure((config) => {
        config.process.env = ['PATH=/bin', 'LD_PRELOAD=./evil.so', 'LD_LIBRARY_PATH=/evil'];
        config.process.cwd = '/tmp';
        config.process.args = ['true'];
      });
      try {
        expect(await run('--device', 'bulkhead.test/hooked=gpu')).toMatchObject({ code: 0 });
      } finally {
        writeFileSync(cli.configPath, before);
      }
      const [variable, directory, state] = readFileSync(log, 'utf8').split('\n');
      expect([variable, directory]).toEqual(['OWN=1', '/']);
      expect(JSON.parse(state ?? '')).toMatchObject({ bundle: cli.bundle });
      expect(cli.leftovers()).toEqual([]);
    },
  );

  // CVE-2024-0132, CVE-2025-23359: an image's links led the toolkit's mounts to places of the host.
  it('mounts and makes nodes beneath the container’s root, wherever the image’s links point', async () => {
    const outside = join(cli.dir, 'outside');
    mkdirSync(outside);
    const rootfs = join(cli.bundle, 'rootfs');
    const escape = join(rootfs, 'escape');
    symlinkSync(outside, escape);
    // Beneath the root the same path is another directory.
    mkdirSync(join(rootfs, outside), { recursive: true });
    const library = join(cli.dir, 'shared', 'file');
    const edits = {
      mounts: [{ hostPath: library, containerPath: '/escape/libcuda.so.1', options: ['ro', 'bind'] }],
      deviceNodes: [{ path: '/escape/node', hostPath: '/dev/zero' }],
    };
    const devices = [{ name: 'gpu', containerEdits: edits }];
    writeFileSync(
      join(specDir, 'link.json'),
      JSON.stringify({ cdiVersion: '0.5.0', kind: 'bulkhead.test/link', devices }),
    );
    cli.configure((config) => {
      config.process.args = ['sh', '-c', `ls ${outside}; cat /escape/libcuda.so.1`];
      config.root.readonly = false;
    });
    try {
      const result = await run('--device', 'bulkhead.test/link=gpu');
      expect(result).toMatchObject({ code: 0, stderr: '', stdout: 'libcuda.so.1\nnode\nhello\n' });
      expect(readdirSync(outside)).toEqual([]);
      expect(cli.leftovers()).toEqual([]);
    } finally {
      rmSync(escape);
    }
  });

  it('does so for a spec in YAML', async () => {
    rmSync(join(specDir, 'made.json'));
    const yaml = `cdiVersion: 0.5.0\nkind: bulkhead.test/made\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/made/zero, hostPath: /dev/zero, fileMode: 0640}\n`;
    writeFileSync(join(specDir, 'made.yaml'), yaml);
    const result = await run('--device', 'bulkhead.test/made=0');
    expect(result).toMatchObject({ stdout: expect.stringMatching(/^crw-r-----/) });
  });

  it('takes the names from annotations, each once', async () => {
    cli.configure((config) => {
      config.annotations = {
        'cdi.k8s.io/test_0': 'bulkhead.test/made=zero',
        'cdi.k8s.io/test_1': 'bulkhead.test/made=zero',
      };
    });
    const result = await run('--device', 'bulkhead.test/made=zero');
    expect(result.stdout).toMatch(seen);
    const plan = JSON.parse(await cli.ok('plan', '--json', '--cdi-spec-dir', specDir));
    const nodes = plan.steps.filter((step: Config) => step.mknod?.target === '/dev/made/zero');
    expect(nodes).toHaveLength(1);
  });

  it.each(['io.kubernetes.cri.container-type', 'io.kubernetes.cri-o.ContainerType'])(
    'leaves annotations alone where %s says that it was done',
    async (key) => {
      cli.configure((config) => {
        config.process.args = ['ls', '/dev/made'];
        config.annotations = { 'cdi.k8s.io/test_0': 'bulkhead.test/made=zero', [key]: 'container' };
      });
      const result = await run();
      expect(result.code).toBe(1);
      expect(result.stderr).toContain('/dev/made: No such file or directory');
    },
  );

  it('lets a later directory override', async () => {
    const second = join(cli.dir, 'cdi2');
    mkdirSync(second, { recursive: true });
    writeFileSync(join(second, 'made.json'), JSON.stringify(spec('bulkhead.test/made', 'overridden')));
    const result = await run('--cdi-spec-dir', second, '--device', 'bulkhead.test/made=zero');
    expect(result.stdout).toContain('overridden yes');
  });

  it('keeps the edits for exec', async () => {
    cli.configure((config) => {
      config.process.args = ['sleep', '100'];
    });
    const id = cli.id();
    const started = await cli.leaving('run', id, [
      '-d',
      '--cdi-spec-dir',
      specDir,
      '--device',
      'bulkhead.test/made=zero',
    ]);
    expect(started.code).toBe(0);
    expect(await cli.ok('exec', id, 'sh', '-c', 'echo $DEVICE; cat /made/shared/file')).toBe('held\nhello\n');
    await cli.ok('delete', '-f', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('denies a device with permissions "none"', async () => {
    const none = {
      cdiVersion: '1.1.0',
      kind: 'bulkhead.test/made',
      devices: [
        {
          name: 'none',
          containerEdits: {
            deviceNodes: [{ path: '/dev/made/kmsg', hostPath: '/dev/kmsg', permissions: 'none' }],
          },
        },
      ],
    };
    writeFileSync(join(specDir, 'made.json'), JSON.stringify(none));
    cli.configure((config) => {
      config.process.args = ['sh', '-c', 'ls /dev/made; head -c 1 /dev/made/kmsg'];
    });
    const result = await run('--device', 'bulkhead.test/made=none');
    expect(result.stdout).toBe('kmsg\n');
    expect(result.stderr).toContain('Operation not permitted');
  });

  it.each<[string, string[], string]>([
    [
      'an unknown device',
      ['--device', 'bulkhead.test/made=gone'],
      'CDI device bulkhead.test/made=gone: not found; known of this kind: other, zero; specs read: DIR/made.json; see what there is with: bulkhead devices cdi list',
    ],
    [
      'a name that is none',
      ['--device', '/dev/null'],
      'CDI device /dev/null: \\"/dev/null\\" is not of the form vendor/class=name',
    ],
    [
      'an unknown kind',
      ['--device', 'nvidia.com/gpu=0'],
      'CDI device nvidia.com/gpu=0: not found; no spec file describes nvidia.com/gpu; bulkhead devices cdi generate --kind nvidia.com/gpu --output /etc/cdi/nvidia.com-gpu.json',
    ],
  ])('refuses %s and leaves nothing', async (_, flags, message) => {
    const result = await run(...flags);
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(message.replace('DIR', specDir));
    expect(cli.leftovers()).toEqual([]);
  });

  it('refuses a spec whose edits make no valid configuration', async () => {
    const bad = {
      cdiVersion: '0.5.0',
      kind: 'bulkhead.test/made',
      devices: [{ name: 'bad', containerEdits: { mounts: [{ hostPath: '/x', containerPath: '/made\0' }] } }],
    };
    writeFileSync(join(specDir, 'made.json'), JSON.stringify(bad));
    const result = await run('--device', 'bulkhead.test/made=bad');
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(
      'devices[0].containerEdits.mounts[0].containerPath: contains a zero byte',
    );
    expect(cli.leftovers()).toEqual([]);
  });

  it('does not change the bundle', async () => {
    const before = readFileSync(cli.configPath, 'utf8');
    await run('--device', 'bulkhead.test/made=zero');
    expect(readFileSync(cli.configPath, 'utf8')).toBe(before);
  });
});

describe.skipIf(isRunc)('what a node can pass', () => {
  const host = join(cli.dir, 'host');
  const put = (path: string, text: string): void => {
    mkdirSync(dirname(join(host, path)), { recursive: true });
    writeFileSync(join(host, path), text);
  };
  beforeAll(() => {
    const nd = 'sys/bus/nd/devices';
    put(`${nd}/namespace0.0/mode`, 'memory\n');
    put(`${nd}/namespace0.0/size`, '268304384\n');
    put(`${nd}/namespace0.0/holder`, 'pfn0.0\n');
    put(`${nd}/pfn0.0/block/pmem0/size`, '524032\n');
    put('sys/class/block/pmem0/queue/dax', '1\n');
    put('proc/mounts', '/dev/pmem0 /mnt/fast ext4 rw,dax=always 0 0\n');
  });
  const at = ['--host-root', host, '--cdi-spec-dir', join(cli.dir, 'none')];

  it('as JSON and as a table', async () => {
    const report = JSON.parse(await cli.ok('devices', '--json', ...at));
    expect(report.devices).toHaveLength(1);
    expect(report.devices[0]).toMatchObject({
      kind: 'pmem',
      id: 'namespace0.0',
      walls: { namespace: { ok: true, as: 'DAX file system /mnt/fast' }, sentry: { ok: false } },
    });
    const table = await cli.ok('devices', ...at);
    expect(table).toContain('IOMMU off');
    expect(table).toMatch(
      /namespace0\.0 +fsdax 255\.9 MiB \/dev\/pmem0 +DAX file system \/mnt\/fast +NVDIMM from a file in \/mnt\/fast +no\n/,
    );
    expect(table).toContain('  PMEM namespace0.0: the sentry wall passes no devices of the host\n    fix: ');
  });

  it('of this host, whatever it has', async () => {
    expect(Object.keys(JSON.parse(await cli.ok('devices', '--json')))).toEqual(
      expect.arrayContaining(['iommu', 'devices', 'cdi']),
    );
  });

  it('tries what is there, and says so when nothing is', async () => {
    const { code, stdout } = await cli.run(['devices', 'selftest']);
    expect(stdout).toMatch(/^(?:nothing to try on this host\n|(?:(?:ok {4}|FAILED) {2}.+: .+: .+\n)+)$/);
    expect(code).toBe(stdout.includes('FAILED') ? 1 : 0);
  });

  it('takes no function that is not there, and leaves no claim', async () => {
    const { code, stdout } = await cli.run(['devices', 'selftest', 'ffff:00:00.0']);
    expect(code).toBe(1);
    expect(stdout).toContain(
      'FAILED  function ffff:00:00.0: bind to vfio-pci: create selftest: PCI function ffff:00:00.0: not on this host',
    );
    expect(cli.leftovers()).toEqual([]);
  });

  it('writes CDI specs and lists their devices', async () => {
    const dir = join(cli.dir, 'generated');
    const kind = 'bulkhead.io/pmem';
    const printed = await cli.ok('devices', 'cdi', 'generate', '--kind', kind, ...at);
    expect(JSON.parse(printed)).toMatchObject({ kind, devices: [{ name: 'namespace0.0' }] });
    await cli.ok('devices', 'cdi', 'generate', '--kind', kind, '--output', join(dir, 'pmem.yaml'), ...at);
    expect(readFileSync(join(dir, 'pmem.yaml'), 'utf8')).toBe(printed);
    expect(await cli.ok('devices', 'cdi', 'list', '--cdi-spec-dir', dir)).toBe(
      'bulkhead.io/pmem=namespace0.0\n',
    );
    const broken = join(dir, 'broken.json');
    writeFileSync(broken, '{');
    const listed = JSON.parse(await cli.ok('devices', 'cdi', 'list', '--json', '--cdi-spec-dir', dir));
    expect(listed).toEqual({
      devices: ['bulkhead.io/pmem=namespace0.0'],
      errors: { [broken]: [`${broken}: is not JSON`] },
    });
  });

  it.each([
    [
      ['cdi', 'generate', '--kind', 'nvidia.com/gpu', ...at],
      'devices: kind nvidia.com/gpu: this host has no such device that a container can be given; see why with: bulkhead devices',
    ],
    [
      ['cdi', 'generate', '--output', '/tmp/x', ...at],
      'devices: --output needs --kind; see bulkhead devices --help',
    ],
    [['cdi', 'eat'], 'devices: no such command: cdi eat; see bulkhead devices --help'],
  ])('refuses %j', async (args, message) => {
    const result = await cli.run(['devices', ...args]);
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(message);
  });
});
