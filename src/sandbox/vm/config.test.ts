import { describe, expect, it } from 'vitest';
import { defaultVmConfig, parseVmConfig } from './config.ts';
import { kataGuest } from './kata/guest.ts';

const parse = (table: Record<string, unknown>): ReturnType<typeof parseVmConfig> =>
  parseVmConfig('/etc/bulkhead/config.toml', table);

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
