import { describe, expect, it } from 'vitest';
import { defaultVmConfig, parseVmConfig, type VmConfig } from './config.ts';
import { kataGuest } from './kata/guest.ts';

const parse = (table: Record<string, unknown>): ReturnType<typeof parseVmConfig> =>
  parseVmConfig('/etc/bulkhead/config.toml', table);

describe('the table [vm]', () => {
  const notText = [true, 1, ['/x'], {}, null];
  const paths = { good: ['/x', '/'], bad: ['', 'x', './x', ...notText] };
  const counts = { good: [1, 4096], bad: [0, -1, 1.5, '1', NaN, Infinity, true, null] };
  const choices = (...good: unknown[]): { good: unknown[]; bad: unknown[] } => ({
    good,
    bad: ['', 'x', String(good[0]).toUpperCase(), ...notText],
  });
  it.each<[name: string, key: keyof VmConfig, values: { good: unknown[]; bad: unknown[] }, scale?: number]>([
    ['qemu', 'qemu', paths],
    ['virtiofsd', 'virtiofsd', paths],
    ['kernel', 'kernel', paths],
    ['initrd', 'initrd', paths],
    ['cache', 'cache', paths],
    ['agent', 'agent', choices('bulkhead')],
    ['machine', 'machine', choices('q35', 'microvm')],
    ['channel', 'channel', choices('auto', 'serial', 'vsock')],
    ['accelerator', 'accelerator', choices('auto', 'tcg', 'kvm')],
    ['root_device', 'rootDevice', choices('block', 'pmem')],
    ['vfio_mode', 'vfioMode', choices('guest-kernel', 'vfio')],
    ['template', 'template', { good: [true, false], bad: ['true', 0, null] }],
    ['huge_pages', 'hugePages', { good: ['2M', '1G', '64K'], bad: ['', '2', 'M', '0M', '2m', 2] }],
    ['kernel_arguments', 'kernelArguments', { good: ['', 'a=b c'], bad: ['a\nb', '~\t', 'ä', 1] }],
    ['annotations', 'annotations', { good: [[], ['a.*']], bad: ['a', [1], ['a', null], {}] }],
    ['tcg_cache_mib', 'tcgCacheMib', counts],
    ['memory_mib', 'memoryMib', counts],
    ['overhead_mib', 'overheadMib', counts],
    ['vcpus', 'vcpus', counts],
    ['boot_timeout_seconds', 'bootTimeoutMs', { good: [1, 86_400], bad: [...counts.bad, 86_401] }, 1000],
  ])('has %s', (name, key, { good, bad }, scale) => {
    for (const value of good)
      expect(parse({ [name]: value })[key]).toEqual(scale === undefined ? value : (value as number) * scale);
    for (const value of bad)
      expect(() => parse({ [name]: value })).toThrow(
        `configure: /etc/bulkhead/config.toml: vm.${name}: unknown key or bad value ${JSON.stringify(value)}`,
      );
  });

  it.each(['memory', 'Memory_mib', 'toString', '__proto__', 'constructor'])('has no %s', (name) => {
    expect(() => parse(Object.fromEntries([[name, 1]]))).toThrow(`vm.${name}: unknown key or bad value 1`);
  });

  it('has machines at least as large at most as at the start', () => {
    expect(parse({ memory_mib: 8192, vcpus: 16 })).toMatchObject({ maxMemoryMib: 8192, maxVcpus: 16 });
    expect(parse({ max_memory_mib: 300, max_vcpus: 2 })).toMatchObject({ maxMemoryMib: 300, maxVcpus: 2 });
    expect(parse({ max_memory_mib: 100 })).toMatchObject({ memoryMib: 256, maxMemoryMib: 256 });
  });
});

describe('functions of the host', () => {
  it('are the guest kernel’s unless programs are to drive them', () => {
    expect(parse({}).vfioMode).toBe('guest-kernel');
    expect(parse({ vfio_mode: 'vfio' }).vfioMode).toBe('vfio');
    for (const bad of ['VFIO', '', true, 1]) {
      expect(() => parse({ vfio_mode: bad })).toThrow(
        `configure: /etc/bulkhead/config.toml: vm.vfio_mode: unknown key or bad value ${JSON.stringify(bad)}`,
      );
    }
  });
});

describe("a guest with Kata's agent", () => {
  it('is a kernel and an image, or a kernel and an initrd', () => {
    const files = { agent: 'kata', kernel: '/k', kernel_arguments: 'agent.log=debug' };
    expect(parse({ ...files, image: '/kata.img' })).toMatchObject({
      agent: 'kata',
      kernel: '/k',
      image: '/kata.img',
      initrd: '',
      kernelArguments: 'agent.log=debug',
    });
    expect(parse({ ...files, initrd: '/kata.initrd' })).toMatchObject({ image: '', initrd: '/kata.initrd' });
  });

  it.each<[string, Record<string, unknown>]>([
    ['agent', { agent: 'other' }],
    ['kernel', { agent: 'kata', image: '/i' }],
    ['initrd', { agent: 'kata', kernel: '/k' }],
    ['image', { agent: 'kata', kernel: '/k', image: '/i', initrd: '/r' }],
    ['image', { agent: 'kata', kernel: '/k', image: 'relative' }],
    ['image', { image: '/i' }],
    ['channel', { channel: 'virtio' }],
    ['machine', { agent: 'kata', kernel: '/k', image: '/i', machine: 'microvm' }],
    ['kernel_arguments', { kernel_arguments: 'two\nlines' }],
  ])('is refused by the name of %s (%j)', (key, table) => {
    expect(() => parse(table)).toThrow(
      `configure: /etc/bulkhead/config.toml: vm.${key}: unknown key or bad value`,
    );
  });

  it('is not what pods have by default', () => {
    expect(parse({})).toEqual(defaultVmConfig);
    expect(defaultVmConfig.agent).toBe('bulkhead');
  });

  it('boots from the first partition of its image, which is its first disk', () => {
    const { image, devices } = kataGuest({
      kernel: '/k',
      image: '/kata.img',
      initrd: '',
      kernelArguments: 'agent.log=debug',
    });
    expect(image).toMatchObject({ kernel: '/k', initrd: '' });
    expect(image.commandLine).toBe(
      'root=/dev/vda1 rootfstype=ext4 rootflags=data=ordered,errors=remount-ro ro systemd.unit=kata-containers.target ' +
        'systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket cgroup_no_v1=all ' +
        'systemd.unified_cgroup_hierarchy=1 agent.log=debug',
    );
    expect(devices).toEqual([{ kind: 'block', id: 'image', path: '/kata.img', readOnly: true }]);
  });

  it('needs no disk with an initrd', () => {
    const { image, devices } = kataGuest({ kernel: '/k', image: '', initrd: '/r', kernelArguments: '' });
    expect(image.commandLine).toMatch(/^systemd\.unit=.*hierarchy=1$/);
    expect(devices).toEqual([]);
  });
});
