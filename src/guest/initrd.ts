/** The guest's initial file system: the agent as PID 1, the executor, a distribution kernel's modules. Nothing else. */
import type { CpioEntry } from './cpio.ts';

export interface InitrdInput {
  /** bulkhead-agent. */
  agent: Uint8Array;
  /** bulkhead-init. */
  init: Uint8Array;
  /** Name to content, in the order of loading. */
  modules: readonly { name: string; data: Uint8Array }[];
}

/** Where the agent looks for modules: names, one a line, to be loaded in that order. */
export const MODULE_ORDER = 'modules/order';

/** The archive's entries. /init is what the kernel runs; the mount points are empty. */
export function initrdEntries({ agent, init, modules }: InitrdInput): CpioEntry[] {
  const directories = ['bin', 'dev', 'etc', 'mnt', 'proc', 'run', 'sys', 'tmp'];
  const order = modules.map(({ name }) => `/modules/${name}\n`).join('');
  return [
    ...directories.map((path): CpioEntry => ({ kind: 'directory', path })),
    // The kernel opens /dev/console for PID 1 before anything is mounted (init/main.c, console_on_rootfs).
    { kind: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'character', path: 'dev/null', mode: 0o666, major: 1, minor: 3 },
    { kind: 'character', path: 'dev/kmsg', mode: 0o600, major: 1, minor: 11 },
    { kind: 'file', path: 'init', mode: 0o755, data: agent },
    { kind: 'file', path: 'bin/bulkhead-init', mode: 0o755, data: init },
    ...(modules.length === 0 ? [] : moduleEntries(modules, order)),
  ];
}

function moduleEntries(modules: InitrdInput['modules'], order: string): CpioEntry[] {
  return [
    { kind: 'directory', path: 'modules' },
    { kind: 'file', path: MODULE_ORDER, data: Buffer.from(order) },
    ...modules.map(({ name, data }): CpioEntry => ({ kind: 'file', path: `modules/${name}`, data })),
  ];
}
