/** The machine as a backend sees it. Read once: none of it changes while a process lives. */
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { cgroupLayout } from '../cgroups/index.ts';
import { addon } from '../native/index.ts';
import { compileSeccomp } from '../native/seccomp.ts';
import type { HostFacts } from '../plan/inputs.ts';
import type { BackendHost } from './host_backend.ts';

const CAP_SYS_RESOURCE = 24;

/** @param warn gets what was asked for and cannot be had on this machine */
export function backendHost(warn: (id: string, message: string) => void): BackendHost {
  let facts: HostFacts | undefined;
  return {
    layout: () => cgroupLayout(),
    facts: () => (facts ??= readHostFacts()),
    compileSeccomp,
    oomAddon: () => addon(),
    warn,
  };
}

/** Facts about the kernel and about what this process may do; `proc` is where procfs is mounted. */
export function readHostFacts(proc = '/proc', sys = '/sys'): HostFacts {
  const capabilities = effectiveCapabilities(readText(`${proc}/self/status`));
  return {
    capLastCap: Number(readText(`${proc}/sys/kernel/cap_last_cap`).trim() || '40'),
    kernelRelease: release(),
    canRaiseLimits: hasBit(capabilities, CAP_SYS_RESOURCE),
    apparmor: readText(`${sys}/module/apparmor/parameters/enabled`).trim() === 'Y',
    selinux: existsSync(`${sys}/fs/selinux/enforce`),
    unprivileged: process.geteuid?.() !== 0,
    inUserNamespace: isInUserNamespace(readText(`${proc}/self/uid_map`)),
    capabilities,
    hardLimits: hardLimits(readText(`${proc}/self/limits`)),
    kcore: existsSync(`${proc}/kcore`),
    nsdelegate: isNsdelegate(readText(`${proc}/self/mountinfo`)),
  };
}

/** One instance of cgroup2 serves all its mounts, and so does the option (cgroups(7)). */
export function isNsdelegate(mountinfo: string): boolean {
  return /^.* - cgroup2 \S+ \S*\bnsdelegate\b/m.test(mountinfo);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** CapEff of proc_pid_status(5) as a number; 41 capabilities fit a double exactly. */
export function effectiveCapabilities(status: string): number {
  const hex = /^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1];
  return hex === undefined ? 0 : Number.parseInt(hex, 16);
}

function hasBit(mask: number, bit: number): boolean {
  return Math.floor(mask / 2 ** bit) % 2 === 1;
}

/** The initial user namespace maps all ids onto themselves (user_namespaces(7)). */
export function isInUserNamespace(uidMap: string): boolean {
  return uidMap !== '' && !/^\s*0\s+0\s+4294967295\s*$/.test(uidMap);
}

const limitNames: Record<string, string> = {
  'Max cpu time': 'RLIMIT_CPU',
  'Max file size': 'RLIMIT_FSIZE',
  'Max data size': 'RLIMIT_DATA',
  'Max stack size': 'RLIMIT_STACK',
  'Max core file size': 'RLIMIT_CORE',
  'Max resident set': 'RLIMIT_RSS',
  'Max processes': 'RLIMIT_NPROC',
  'Max open files': 'RLIMIT_NOFILE',
  'Max locked memory': 'RLIMIT_MEMLOCK',
  'Max address space': 'RLIMIT_AS',
  'Max file locks': 'RLIMIT_LOCKS',
  'Max pending signals': 'RLIMIT_SIGPENDING',
  'Max msgqueue size': 'RLIMIT_MSGQUEUE',
  'Max nice priority': 'RLIMIT_NICE',
  'Max realtime priority': 'RLIMIT_RTPRIO',
  'Max realtime timeout': 'RLIMIT_RTTIME',
};

/** Hard limits of proc_pid_limits(5) by RLIMIT_ name; -1: unlimited. */
export function hardLimits(text: string): Record<string, number> {
  const limits: Record<string, number> = {};
  for (const line of text.split('\n').slice(1)) {
    const match = /^(.+?)\s{2,}(\S+)\s+(\S+)/.exec(line);
    const name = limitNames[match?.[1] ?? ''];
    const hard = match?.[3];
    if (name !== undefined && hard !== undefined) limits[name] = hard === 'unlimited' ? -1 : Number(hard);
  }
  return limits;
}
