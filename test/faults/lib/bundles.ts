/** Bundles with real configurations: those of test/bundles, with sources and programs that this machine has. */
import { chmodSync, closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import type { Hook, Mount, Spec } from '../../../src/oci/types.ts';
import { makeRootfs } from '../../e2e/lib/image.ts';
import { cgroupParent } from './host.ts';

export type SpecName = (typeof specNames)[number];
export const specNames = ['plain', 'terminal', 'cri', 'userns', 'loaded'] as const;

const golden: Record<SpecName, string> = {
  plain: 'ctr-default',
  terminal: 'ctr-terminal',
  cri: 'cri-app',
  userns: 'userns',
  loaded: 'ctr-default',
};

const hook = (name: string): Hook => ({ path: '/bin/busybox', args: ['true', name], timeout: 20 });

/** Volumes, tmpfs, hooks at every point, and limits in every cgroup controller that machines have. */
function load(spec: Spec): void {
  spec.mounts?.push(
    { destination: '/vol/ro', type: 'bind', source: 'volume', options: ['rbind', 'ro'] },
    { destination: '/vol/rw', type: 'bind', source: 'volume', options: ['rbind', 'rw', 'rprivate'] },
    { destination: '/vol/file', type: 'bind', source: 'file', options: ['bind', 'ro'] },
    { destination: '/etc', type: 'tmpfs', source: 'tmpfs', options: ['tmpcopyup', 'size=1m'] },
  );
  spec.hooks = {
    prestart: [hook('prestart')],
    createRuntime: [hook('createRuntime')],
    createContainer: [hook('createContainer')],
    startContainer: [hook('startContainer')],
    poststart: [hook('poststart')],
    poststop: [hook('poststop')],
  };
  spec.hostname = 'loaded';
  spec.linux!.resources = {
    ...spec.linux!.resources,
    memory: { limit: 64 << 20 },
    cpu: { shares: 512, quota: 50_000, period: 100_000 },
    pids: { limit: 64 },
  };
}

/** A directory with the root file system and what volumes need; containers of one after the other use it. */
export class Bundle {
  readonly dir: string;
  readonly rootfs: string;

  private constructor(dir: string) {
    this.dir = dir;
    this.rootfs = join(dir, 'rootfs');
  }

  static async make(dir: string): Promise<Bundle> {
    const bundle = new Bundle(dir);
    // Users of user namespaces have to get through.
    for (let path = dir; path !== '/tmp' && path !== '/'; path = dirname(path)) {
      mkdirSync(path, { recursive: true });
      chmodSync(path, 0o711);
    }
    await makeRootfs(bundle.rootfs);
    mkdirSync(join(dir, 'volume'));
    writeFileSync(join(dir, 'file'), 'of the host\n');
    spawnSync('mkfifo', ['-m', '666', join(bundle.rootfs, 'hang')]);
    return bundle;
  }

  /** The configuration as it will be written. */
  spec(name: SpecName, id: string): Spec {
    const file = join(import.meta.dirname, '../../bundles', golden[name], 'config.json');
    const spec = JSON.parse(readFileSync(file, 'utf8')) as Spec;
    spec.process!.args = ['/bin/sleep', '1000'];
    spec.process!.cwd = '/';
    spec.linux!.cgroupsPath = `${cgroupParent()}/${id}`;
    spec.linux!.namespaces = spec.linux!.namespaces?.map(({ type }) => ({ type }));
    delete spec.linux!.devices;
    if (name === 'loaded') load(spec);
    for (const mount of spec.mounts ?? []) this.#provide(mount);
    return spec;
  }

  write(spec: Spec): void {
    writeFileSync(join(this.dir, 'config.json'), JSON.stringify(spec));
  }

  /** Sources that only the machine of the golden case has. */
  #provide(mount: Mount): void {
    if (mount.type !== 'bind' || mount.source?.startsWith('/') !== true) return;
    mount.source = join(this.dir, 'sources', mount.source);
    if (/\/(hosts|etc-hosts|hostname|1)$/.test(mount.source)) {
      mkdirSync(dirname(mount.source), { recursive: true });
      closeSync(openSync(mount.source, 'a'));
    } else {
      mkdirSync(mount.source, { recursive: true });
    }
  }
}
