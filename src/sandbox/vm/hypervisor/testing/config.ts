/** A machine's configuration for tests. */
import type { MachineConfig } from '../hypervisor.ts';

export function testConfig(changes: Partial<MachineConfig> = {}): MachineConfig {
  return {
    id: 'pod-1',
    dir: '/run/m',
    image: { kernel: '/g/vmlinux', initrd: '/g/initrd', commandLine: 'agent=1' },
    size: { memoryMib: 256, vcpus: 1 },
    type: 'q35',
    accelerator: 'tcg',
    sharedMemory: false,
    ports: 2,
    ...changes,
  };
}
