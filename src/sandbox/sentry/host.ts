/** The machine as the sentry wall sees it. */
import { existsSync } from 'node:fs';
import type { SentryHost } from './backend.ts';
import { socketDirectory } from './socket.ts';

const sysFiles = [
  '/sys/devices/system/cpu/online',
  '/sys/devices/system/cpu/possible',
  '/sys/devices/system/cpu/present',
  '/sys/kernel/mm/transparent_hugepage/enabled',
  '/sys/kernel/mm/transparent_hugepage/hpage_pmd_size',
];

/** @param program bulkhead-sentry; @param root the state root */
export function sentryHost(program: string, root: string): SentryHost {
  return {
    program,
    socketDir: socketDirectory(root),
    arch: process.arch,
    sysFiles: sysFiles.filter((path) => existsSync(path)),
  };
}
