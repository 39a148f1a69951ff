import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { makeRootfs } from './lib/image.ts';
import { isBulkhead, runtime } from './lib/paths.ts';

/** The network comes first: a case leaves it out. */
const own = ['network', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type }));
const namespaces = { namespaces: own };

/** Bad input through containerd: one sentence that names the object, a non-zero code, and nothing left behind. */
describe('bad input', () => {
  let containerd: PrivateContainerd;
  let rootfs: string;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
    rootfs = join(containerd.dir, 'rootfs');
    mkdirSync(rootfs);
    await makeRootfs(rootfs);
  });
  afterAll(() => containerd?.stop());

  const spec = (changes: object): object => ({
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0 }, args: ['/bin/true'], env: ['PATH=/bin'], cwd: '/' },
    root: { path: rootfs },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: { namespaces: own },
    ...changes,
  });

  /** `ctr run` with a config.json of our own; ctr passes it through as it is. */
  const runSpec = async (id: string, config: object): Promise<{ code: number | null; stderr: string }> => {
    const file = join(containerd.dir, `${id}.json`);
    writeFileSync(file, JSON.stringify(config));
    const result = await containerd.ctr(['run', '--rm', '--runtime', runtime, '--config', file, id]);
    await containerd.ctr(['container', 'rm', id]);
    return result;
  };

  it('runs a config.json of our own', async () => {
    expect(await runSpec('good', spec({}))).toMatchObject({ code: 0, stderr: '' });
  });

  const mount = (source: string, destination: string, type = 'bind', options = ['bind']): object => ({
    mounts: [{ source, destination, type, options }],
  });
  const cases: readonly (readonly [string, object, RegExp])[] = [
    [
      'missing-rootfs',
      { root: { path: '/no/such/rootfs' } },
      /\/no\/such\/rootfs.*no such file or directory/,
    ],
    ['missing-source', mount('/no/such/source', '/mnt'), /\/no\/such\/source/],
    ['bad-type', mount('x', '/mnt', 'no-such-fs', []), /no-such-fs|no such device/],
    [
      'bad-option',
      mount('tmpfs', '/mnt', 'tmpfs', ['size=nonsense']),
      /mnt.*invalid argument|invalid argument.*mnt/,
    ],
    [
      'bad-namespace',
      { linux: { namespaces: [...own.slice(1), { type: 'network', path: '/no/such/netns' }] } },
      /\/no\/such\/netns/,
    ],
    ['unknown-namespace', { linux: { namespaces: [{ type: 'mount' }, { type: 'galaxy' }] } }, /galaxy/],
    ['missing-command', { process: process(['/no/such/command']) }, /\/no\/such\/command/],
    ['not-executable', { process: process(['/etc/passwd']) }, /\/etc\/passwd.*permission denied/],
    [
      'missing-cwd',
      { process: { ...process(['/bin/true']), cwd: '/etc/passwd' } },
      /\/etc\/passwd.*not a directory/,
    ],
    ['no-args', { process: process([]) }, /args/],
    [
      'bad-rlimit',
      { process: { ...process(['/bin/true']), rlimits: [{ type: 'RLIMIT_NONE', soft: 1, hard: 1 }] } },
      /RLIMIT_NONE/,
    ],
    ['bad-sysctl', { linux: { ...namespaces, sysctl: { 'kernel.no_such': '1' } } }, /kernel.no_such/],
    ['proc-on-file', mount('proc', '/etc/passwd', 'proc', []), /\/etc\/passwd|proc/],
  ];

  it.each(cases)('%s is refused with its name', async (id, changes, message) => {
    const result = await runSpec(id, spec(changes));
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(message);
    // One sentence, as ctr prints it; a stack or a second error line would be noise.
    if (isBulkhead) expect(result.stderr.trim().split('\n')).toHaveLength(1);
    expect(await containerd.leaks()).toEqual([]);
  });

  it('takes the same container after each refusal', async () => {
    expect(await runSpec('again', spec({}))).toMatchObject({ code: 0, stderr: '' });
    expect(await containerd.leaks()).toEqual([]);
  });
});

function process(args: string[]): object {
  return { user: { uid: 0, gid: 0 }, args, env: ['PATH=/bin'], cwd: '/' };
}
