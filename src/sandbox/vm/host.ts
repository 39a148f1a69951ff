/** The machine as the vm wall sees it. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import { cgroupLayout } from '../../cgroups/index.ts';
import { addon } from '../../native/index.ts';
import type { Spec } from '../../oci/types.ts';
import { readHostFacts } from '../host.ts';
import type { VmHost } from './backend.ts';
import type { VmConfig } from './config.ts';
import type { GuestImage, MachineConfig } from './hypervisor/hypervisor.ts';
import { QemuHypervisor } from './hypervisor/qemu/driver.ts';
import { machineSize } from './sizing.ts';

/** How many devices can be plugged into a machine that runs. */
const PORTS = 16;
const DEFAULT_OPEN_FILES = 1_000_000;

/** @param root the engine's state root */
export function vmHost(config: VmConfig, root: string, log: Logger): VmHost {
  let hypervisor: QemuHypervisor | undefined;
  return {
    top: join(root, 'vm'),
    sandbox: {
      hypervisor: () => {
        checkPrograms(config);
        hypervisor ??= new QemuHypervisor({ program: config.qemu, addon: addon() });
        return Promise.resolve(hypervisor);
      },
      machineConfig: (id, spec) => machineConfig(config, id, spec),
      layout: () => cgroupLayout(),
      shareDaemon: config.virtiofsd,
      openFiles: openFiles(),
      bootDeadlineMs: config.bootTimeoutMs,
      log,
    },
  };
}

function machineConfig(config: VmConfig, id: string, spec: Spec): Promise<Omit<MachineConfig, 'dir'>> {
  return Promise.resolve({
    id: id.slice(0, 64),
    image: guestImage(config, id),
    size: machineSize(id, spec, config),
    type: config.machine,
    accelerator: config.accelerator === 'auto' ? 'tcg' : config.accelerator,
    sharedMemory: true,
    ports: PORTS,
  });
}

function guestImage({ kernel, initrd }: VmConfig, id: string): GuestImage {
  for (const [what, path] of Object.entries({ kernel, initrd })) {
    if (path !== '' && existsSync(path)) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `guest ${what}${path === '' ? '' : ` ${path}`}`,
      reason: path === '' ? 'is not configured' : 'no such file or directory',
      remedy: 'make one with `bulkhead guest build`',
    });
  }
  return { kernel, initrd };
}

function checkPrograms({ qemu, virtiofsd }: VmConfig): void {
  for (const path of [qemu, virtiofsd]) {
    if (existsSync(path)) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      object: path,
      reason: 'no such file or directory',
      remedy: 'install qemu-system-x86 (Debian), or name the program in [vm] of the configuration',
    });
  }
}

/** As many as this process may pass on. */
function openFiles(): number {
  const { canRaiseLimits, hardLimits = {} } = readHostFacts();
  const hard = hardLimits['RLIMIT_NOFILE'] ?? DEFAULT_OPEN_FILES;
  return canRaiseLimits || hard < 0 ? DEFAULT_OPEN_FILES : hard;
}
