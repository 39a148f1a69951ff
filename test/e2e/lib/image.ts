import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from './exec.ts';
import { imageDir } from './paths.ts';

/** What the tests run: busybox with all its applets, in one layer of about 1 MB. */
export const testImage = 'docker.io/bulkhead/test:1';
/** The same layer, sleeping: the pod sandbox of CRI tests. */
export const pauseImage = 'docker.io/bulkhead/pause:1';

const archive = join(imageDir, 'images-1.tar');
const busybox = '/bin/busybox';

const files: Record<string, string> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n',
  'etc/group': 'root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n',
  'etc/hostname': 'image\n',
};

/** Lays the root filesystem of the test image out in `dir` (which must be empty or absent). */
export const makeRootfs = async (dir: string): Promise<void> => {
  for (const name of ['bin', 'dev', 'etc', 'home/guest', 'proc', 'root', 'run', 'sys', 'usr/bin', 'var']) {
    mkdirSync(join(dir, name), { recursive: true });
  }
  mkdirSync(join(dir, 'tmp'), { mode: 0o1777 });
  copyFileSync(busybox, join(dir, 'bin/busybox'));
  const applets = await run(busybox, ['--list']);
  for (const applet of applets.stdout.split('\n').filter((name) => name !== '' && name !== 'busybox')) {
    symlinkSync('busybox', join(dir, 'bin', applet));
  }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
};

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** An OCI layout directory: content-addressed blobs and an index that names manifests. */
class Layout {
  private readonly dir: string;
  private readonly manifests: object[] = [];

  constructor(dir: string) {
    this.dir = dir;
    mkdirSync(join(dir, 'blobs/sha256'), { recursive: true });
    writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  }

  blob(mediaType: string, bytes: Uint8Array): { mediaType: string; digest: string; size: number } {
    const hex = sha256(bytes);
    writeFileSync(join(this.dir, 'blobs/sha256', hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  }

  json(mediaType: string, value: object): { mediaType: string; digest: string; size: number } {
    return this.blob(mediaType, Buffer.from(JSON.stringify(value)));
  }

  image(name: string, layer: Uint8Array, config: object): void {
    const manifest = this.json('application/vnd.oci.image.manifest.v1+json', {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: this.json('application/vnd.oci.image.config.v1+json', {
        created: '2020-01-01T00:00:00Z',
        architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
        os: 'linux',
        config: { Env: ['PATH=/bin:/usr/bin', 'FROM_IMAGE=yes'], ...config },
        rootfs: { type: 'layers', diff_ids: [`sha256:${sha256(layer)}`] },
        history: [{ created: '2020-01-01T00:00:00Z', created_by: 'busybox-static' }],
      }),
      layers: [this.blob('application/vnd.oci.image.layer.v1.tar', layer)],
    });
    const annotations = {
      'io.containerd.image.name': name,
      'org.opencontainers.image.ref.name': name.split(':')[1],
    };
    this.manifests.push({ ...manifest, annotations });
  }

  close(): void {
    writeFileSync(
      join(this.dir, 'index.json'),
      JSON.stringify({ schemaVersion: 2, manifests: this.manifests }),
    );
  }
}

const tar = async (from: string, to: string): Promise<void> => {
  const same = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];
  const result = await run('tar', [...same, '-C', from, '-cf', to, '.']);
  if (result.code !== 0) throw new Error(`tar ${from}: ${result.stderr}`);
};

/** The archive with both images, for `ctr image import`; made from busybox-static at the first call. */
export const images = async (): Promise<string> => {
  if (existsSync(archive) && lstatSync(archive).mtimeMs > lstatSync(busybox).mtimeMs) return archive;
  mkdirSync(dirname(archive), { recursive: true });
  const work = mkdtempSync(join(imageDir, 'make-'));
  try {
    await makeRootfs(join(work, 'rootfs'));
    await tar(join(work, 'rootfs'), join(work, 'layer.tar'));
    const layer = readFileSync(join(work, 'layer.tar'));
    const layout = new Layout(join(work, 'layout'));
    layout.image(testImage, layer, { Cmd: ['/bin/sh'], WorkingDir: '/' });
    layout.image(pauseImage, layer, { Entrypoint: ['/bin/sleep', '2147483647'] });
    layout.close();
    await tar(join(work, 'layout'), join(work, 'images.tar'));
    // Two runs may make it at once; either result will do.
    renameSync(join(work, 'images.tar'), archive);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return archive;
};
