import { describe, expect, it } from 'vitest';
import type { MachineConfig } from '../hypervisor.ts';
import { testConfig } from '../testing/config.ts';
import { renderArguments } from './arguments.ts';
import { kernelArguments, portAddress, qemuSwitches, type CommandLineInput } from './command_line.ts';

const render = (config: MachineConfig, changes: Partial<CommandLineInput> = {}): string[] =>
  renderArguments(
    qemuSwitches({ config, memory: { kind: 'anonymous' }, restore: false, paused: false, ...changes }),
  );

/** The values of a switch. */
const values = (args: readonly string[], name: string): string[] =>
  args.filter((_, index) => args[index - 1] === name);

const KERNEL =
  'console=ttyS0 quiet reboot=t panic=-1 swiotlb=noforce cryptomgr.notests random.trust_cpu=on ' +
  'tsc=reliable no_timer_check mitigations=off init_on_alloc=1 agent=1';

describe('qemuSwitches', () => {
  it('limits what TCG keeps, and only TCG', () => {
    const config = { ...testConfig(), tcgCacheMib: 64 };
    expect(values(render(config), '-accel')).toEqual(['tcg,thread=multi,tb-size=64']);
    expect(values(render({ ...config, accelerator: 'kvm' }), '-accel')).toEqual(['kvm']);
  });

  it('boots a q35 with nothing but what a pod needs', () => {
    expect(render(testConfig())).toEqual([
      '-name',
      'pod-1',
      '-nodefaults',
      '-no-user-config',
      '-no-reboot',
      '-display',
      'none',
      '-sandbox',
      'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
      '-object',
      '{"qom-type":"memory-backend-ram","id":"memory","size":268435456}',
      '-machine',
      'q35,nvdimm=on,sata=off,smbus=off,usb=off,vmport=off,i8042=off,hpet=off,memory-backend=memory',
      '-accel',
      'tcg,thread=multi',
      '-cpu',
      'max',
      '-smp',
      '1',
      '-m',
      '256M,slots=16,maxmem=65792M',
      '-add-fd',
      'fd=5,set=1',
      '-chardev',
      'socket,id=monitor,fd=3,server=on,wait=off',
      '-chardev',
      'socket,id=agent,fd=4,server=on,wait=off',
      '-chardev',
      'file,id=console,path=/dev/fdset/1,append=on',
      '-serial',
      'chardev:console',
      '-mon',
      'chardev=monitor,mode=control',
      '-device',
      '{"driver":"vmgenid","id":"generation","guid":"auto"}',
      '-device',
      '{"driver":"virtio-serial-pci-non-transitional","id":"serial","bus":"pcie.0","addr":"1","max_ports":2}',
      '-device',
      '{"driver":"virtserialport","id":"agent-port","bus":"serial.0","chardev":"agent","name":"bulkhead.agent"}',
      '-device',
      '{"driver":"pcie-root-port","id":"rp0","bus":"pcie.0","addr":"04.0","chassis":1,"multifunction":true}',
      '-device',
      '{"driver":"pcie-root-port","id":"rp1","bus":"pcie.0","addr":"04.1","chassis":2,"multifunction":true}',
      '-kernel',
      '/g/vmlinux',
      '-initrd',
      '/g/initrd',
      '-append',
      KERNEL,
    ]);
  });

  it('restores a template without its kernel, and waits for the state', () => {
    const args = render(testConfig(), {
      memory: { kind: 'file', share: false },
      restore: true,
      paused: true,
    });
    expect(values(args, '-object')).toEqual([
      '{"qom-type":"memory-backend-file","id":"memory","size":268435456,"mem-path":"/proc/self/fd/6","share":false}',
    ]);
    expect(args).not.toContain('-kernel');
    expect(values(args, '-option-rom')).toEqual(['pvh.bin']);
    expect(values(args, '-incoming')).toEqual(['defer']);
    expect(args).toContain('-S');
  });

  it('has memory that others can map where that is asked for', () => {
    const [object] = values(render(testConfig({ sharedMemory: true })), '-object');
    expect(object).toBe('{"qom-type":"memory-backend-memfd","id":"memory","size":268435456,"share":true}');
    const file = render(testConfig({ sharedMemory: true }), { memory: { kind: 'file', share: true } });
    expect(values(file, '-object')[0]).toContain('"share":true');
  });

  it('is a microvm on request: no PCI, no ports, no growth', () => {
    const args = render(testConfig({ type: 'microvm' }));
    expect(values(args, '-machine')).toEqual([
      'microvm,acpi=on,isa-serial=on,rtc=on,pit=off,pic=off,memory-backend=memory',
    ]);
    expect(values(args, '-m')).toEqual(['256M']);
    expect(values(args, '-device')).toEqual([
      '{"driver":"virtio-serial-device","id":"serial","max_ports":2}',
      '{"driver":"virtserialport","id":"agent-port","bus":"serial.0","chardev":"agent","name":"bulkhead.agent"}',
    ]);
  });

  it('uses the processor under KVM, and its clock', () => {
    const args = render(testConfig({ accelerator: 'kvm' }));
    expect(values(args, '-accel')).toEqual(['kvm']);
    expect(values(args, '-cpu')).toEqual(['host']);
    expect(kernelArguments(testConfig({ accelerator: 'kvm' }))).not.toMatch(/mitigations=off|init_on_alloc/);
  });

  it('leaves room for processors and memory that are plugged', () => {
    const args = render(testConfig({ size: { memoryMib: 512, maxMemoryMib: 1024, vcpus: 2, maxVcpus: 4 } }));
    expect(values(args, '-smp')).toEqual(['2,maxcpus=4']);
    expect(values(args, '-m')).toEqual(['512M,slots=16,maxmem=66560M']);
  });

  it('reaches its agent by vsock on request, whose device it was given', () => {
    const args = render(testConfig({ vsockCid: 70_000 }));
    expect(values(args, '-device')[1]).toBe(
      '{"driver":"vhost-vsock-pci-non-transitional","id":"vsock","guest-cid":70000,"vhostfd":"4","bus":"pcie.0","addr":"1"}',
    );
    expect(args.join(' ')).not.toMatch(/serial-pci|virtserialport|id=agent/);
    expect(values(render(testConfig({ vsockCid: 70_000, type: 'microvm' })), '-device')).toEqual([
      '{"driver":"vhost-vsock-device","id":"vsock","guest-cid":70000,"vhostfd":"4"}',
    ]);
  });

  it('quotes what QEMU would take apart', () => {
    expect(values(render(testConfig({ id: 'a,process=x' })), '-name')).toEqual(['a,,process=x']);
  });

  it('gives each of 64 ports a function of its own', () => {
    const addresses = Array.from({ length: 64 }, (_, index) => portAddress(index));
    expect(new Set(addresses).size).toBe(64);
    expect([addresses[0], addresses[7], addresses[8], addresses[63]]).toEqual([
      '04.0',
      '04.7',
      '05.0',
      '0b.7',
    ]);
  });
});
