import { describe, expect, it } from 'vitest';
import { moduleOrder } from './modules.ts';

/** A kernel in which everything required is built in, so that a test is about what it adds. */
const builtin = ['virtio_pci', 'virtio_console', 'overlay'].map((name) => `kernel/x/${name}.ko\n`).join('');
const empty = { dep: '', builtin, softdep: '', alias: '' };

describe('order of modules', () => {
  it('puts what a module needs before it, once', () => {
    const dep = [
      'kernel/fs/ext4/ext4.ko: kernel/fs/jbd2.ko kernel/fs/mbcache.ko',
      'kernel/fs/jbd2.ko:',
      'kernel/fs/mbcache.ko:',
      'kernel/drivers/virtio_blk.ko: kernel/drivers/virtio.ko',
      'kernel/drivers/virtio_net.ko: kernel/drivers/net_failover.ko kernel/drivers/virtio.ko',
      'kernel/drivers/net_failover.ko: kernel/drivers/failover.ko',
      'kernel/drivers/failover.ko:',
      'kernel/drivers/virtio.ko:',
      'kernel/sound/never.ko:',
    ].join('\n');
    const { paths } = moduleOrder({ ...empty, dep });
    expect(paths).toEqual([
      'kernel/drivers/virtio.ko',
      'kernel/drivers/virtio_blk.ko',
      'kernel/drivers/failover.ko',
      'kernel/drivers/net_failover.ko',
      'kernel/drivers/virtio_net.ko',
      'kernel/fs/jbd2.ko',
      'kernel/fs/mbcache.ko',
      'kernel/fs/ext4/ext4.ko',
    ]);
  });

  it('takes - for _ and compressed files for modules', () => {
    const dep =
      'kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz\nkernel/fs/fuse/fuse.ko.xz:\nkernel/nd-pmem.ko.zst:';
    expect(moduleOrder({ ...empty, dep }).paths).toEqual([
      'kernel/nd-pmem.ko.zst',
      'kernel/fs/fuse/fuse.ko.xz',
      'kernel/fs/fuse/virtiofs.ko.xz',
    ]);
  });

  it('follows soft dependencies, by name or by alias, unless they are built in', () => {
    const dep = 'a/ext4.ko: a/jbd2.ko\na/jbd2.ko:\na/crc32c_generic.ko:\na/crc32c_intel.ko:\na/other.ko:';
    const softdep =
      '# a comment\nsoftdep ext4 pre: crypto-crc32c other post: ignored\nsoftdep jbd2 post: other';
    const alias =
      'alias crypto-crc32c crc32c_intel\nalias pci:v*d* other\nalias crypto-crc32c crc32c_generic';
    expect(moduleOrder({ ...empty, dep, softdep, alias }).paths).toEqual([
      'a/crc32c_generic.ko',
      'a/other.ko',
      'a/jbd2.ko',
      'a/ext4.ko',
    ]);
    const own = moduleOrder({
      ...empty,
      dep,
      softdep,
      builtin: `${builtin}x/crc32c_arch.ko\n`,
      alias: `${alias}\nalias crypto-crc32c crc32c_arch`,
    });
    expect(own.paths).not.toContain('a/crc32c_generic.ko');
  });

  it('says which features the kernel lacks', () => {
    const { absent, paths } = moduleOrder({ ...empty, dep: 'a/erofs.ko:' });
    expect(paths).toEqual(['a/erofs.ko']);
    expect(absent).toContain('virtiofs');
    expect(absent).not.toContain('erofs');
    expect(absent).not.toContain('overlay');
  });

  it('refuses a kernel without the port that the agent speaks through', () => {
    expect(() => moduleOrder({ ...empty, builtin: 'x/virtio_pci.ko\n' })).toThrow(
      'guest build: module virtio_console: the kernel has it neither built in nor in the modules directory',
    );
  });

  it('survives modules that need each other', () => {
    const dep = 'a/ext4.ko: a/jbd2.ko\na/jbd2.ko: a/ext4.ko';
    expect(moduleOrder({ ...empty, dep }).paths).toEqual(['a/jbd2.ko', 'a/ext4.ko']);
  });
});
