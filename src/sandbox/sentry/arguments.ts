/** The argument rules of the calls that are direct in part. Numbers are those of x86-64's kernel headers. */
import type { Rule } from './rules.ts';

const direct = (...when: Rule['when']): Rule => ({ when, then: 'direct' });

const CLONE_NEW_ANY = 0x7e020000;

/** No new namespaces; CLONE_NEWTIME cannot be asked for through clone(2). */
export const cloneRules: readonly Rule[] = [direct({ arg: 0, none: CLONE_NEW_ANY })];

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_SEQPACKET = 5;
/** SOCK_CLOEXEC and SOCK_NONBLOCK lie above. */
const TYPE_MASK = 0xf;
const type = (...values: number[]): { arg: number; and: number; in: number[] } => ({
  arg: 1,
  and: TYPE_MASK,
  in: values,
});

/** TCP, UDP and echo sockets of IPv4 and IPv6, unix sockets, and rtnetlink, which name look-ups and "ip addr" read. */
export const socketRules: readonly Rule[] = [
  direct({ arg: 0, in: [AF_UNIX] }, type(SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)),
  direct({ arg: 0, in: [AF_INET, AF_INET6] }, type(SOCK_STREAM), { arg: 2, in: [0, 6] }),
  direct({ arg: 0, in: [AF_INET, AF_INET6] }, type(SOCK_DGRAM), { arg: 2, in: [0, 17, 1, 58] }),
  direct({ arg: 0, in: [AF_NETLINK] }, type(SOCK_RAW, SOCK_DGRAM), { arg: 2, in: [0] }),
  { when: [{ arg: 0, in: [AF_INET, AF_INET6] }, type(SOCK_STREAM, SOCK_DGRAM)], then: 'EPROTONOSUPPORT' },
  { when: [{ arg: 0, in: [AF_INET, AF_INET6] }], then: 'EPERM' },
  { when: [{ arg: 0, in: [AF_NETLINK] }], then: 'EPROTONOSUPPORT' },
];

export const socketpairRules: readonly Rule[] = [
  direct({ arg: 0, in: [AF_UNIX] }, type(SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)),
];

interface OptionTable {
  level: number;
  both: readonly number[];
  read?: readonly number[];
}

/** Options by level. Left out: packet filters (26, 50, 51, 52), firewall tables (64 and up), TCP_REPAIR, TCP_ULP, … */
const options: readonly OptionTable[] = [
  {
    level: 1, // SOL_SOCKET
    both: [2, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 20, 21, 29, 35],
    read: [3, 4, 17, 28, 30, 31, 38, 39, 59],
  },
  { level: 6, both: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 18, 23, 24, 25, 30], read: [11] }, // IPPROTO_TCP
  { level: 0, both: [1, 2, 8, 10, 11, 12, 13, 15, 24, 32, 33, 34, 35, 36, 49, 51], read: [14] }, // IPPROTO_IP
  {
    level: 41, // IPPROTO_IPV6
    both: [16, 17, 18, 19, 20, 21, 23, 25, 26, 29, 49, 50, 51, 52, 66, 67],
    read: [24],
  },
  { level: 17, both: [1, 103, 104] }, // IPPROTO_UDP
  { level: 270, both: [1, 2, 3, 10, 11, 12] }, // SOL_NETLINK
];

const optionRules = (readable: boolean): readonly Rule[] =>
  options.map(({ level, both, read = [] }) =>
    direct({ arg: 1, in: [level] }, { arg: 2, in: readable ? [...both, ...read] : both }),
  );
export const setsockoptRules = optionRules(false);
export const getsockoptRules = optionRules(true);

/** Terminals (not TIOCSTI, TIOCLINUX), descriptors, interface queries, reflinks; the often used first. */
export const ioctlRules: readonly Rule[] = [
  direct({
    arg: 1,
    in: [
      0x5401, 0x5413, 0x541b, 0x5421, 0x5451, 0x5450, 0x5402, 0x5403, 0x5404, 0x5409, 0x540a, 0x540b, 0x540e,
      0x540f, 0x5410, 0x5411, 0x5414, 0x5422, 0x5429, 0x5452, 0x80045430, 0x40045431, 0x80045439, 0x5441,
      0x802c542a, 0x402c542b, 0x402c542c, 0x402c542d, 0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891b,
      0x8921, 0x8927, 0x8933, 0x40049409,
    ],
  }),
];

export const fcntlRules: readonly Rule[] = [
  direct({
    arg: 1,
    in: [3, 4, 2, 1, 1030, 0, 6, 7, 5, 8, 9, 10, 11, 15, 16, 36, 37, 38, 1031, 1032, 1033, 1034],
  }),
];

/** Not PR_SET_MM, PR_SET_PTRACER, PR_SET_VMA, PR_SCHED_CORE, PR_SET_SYSCALL_USER_DISPATCH, … */
export const prctlRules: readonly Rule[] = [
  direct({
    arg: 0,
    in: [15, 16, 1, 2, 3, 4, 7, 8, 21, 22, 23, 24, 27, 28, 29, 30, 36, 37, 38, 39, 40, 41, 42, 47, 52, 53],
  }),
];

/** FS and GS bases only: not CPUID faulting, shadow stacks, untagging, guest permissions. */
export const archPrctlRules: readonly Rule[] = [direct({ arg: 0, in: [0x1002, 0x1001, 0x1003, 0x1004] })];

/** Not MADV_REMOVE, MADV_MERGEABLE (a side channel), MADV_HWPOISON, MADV_SOFT_OFFLINE, MADV_COLLAPSE. */
export const madviseRules: readonly Rule[] = [
  direct({ arg: 2, in: [4, 8, 14, 15, 3, 0, 1, 2, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23] }),
];

/** Not MAP_GROWSDOWN, MAP_LOCKED, MAP_HUGETLB. */
export const mmapRules: readonly Rule[] = [direct({ arg: 3, none: 0x00042100 })];

/** Not the priority-inheriting operations, whose code has been the way out of many sandboxes (CVE-2014-3153). */
export const futexRules: readonly Rule[] = [direct({ arg: 1, and: 0x7f, in: [1, 0, 9, 10, 5, 4, 3] })];

/** Not SHM_HUGETLB. */
export const shmgetRules: readonly Rule[] = [direct({ arg: 2, none: 0o4000 })];
/** IPC_RMID, IPC_SET, IPC_STAT. */
export const shmctlRules: readonly Rule[] = [direct({ arg: 1, in: [0, 1, 2] })];

const S_IFMT = 0o170000;
/** Regular files, fifos and sockets. */
const fileTypes = (arg: number): readonly Rule[] => [
  direct({ arg, and: S_IFMT, in: [0, 0o100000, 0o010000, 0o140000] }),
];
export const mknodRules = fileTypes(1);
export const mknodatRules = fileTypes(2);

/** Own limits, and anybody's to look at. */
export const prlimitRules: readonly Rule[] = [direct({ arg: 0, in: [0] }), direct({ arg: 2, null: true })];

/** A filter of the workload's own, for itself; the kernel has one listener a process at most, and that is ours. */
export const seccompRules: readonly Rule[] = [
  direct({ arg: 0, in: [0, 2] }),
  direct({ arg: 0, in: [1] }, { arg: 1, none: 0x8 }),
  { when: [{ arg: 0, in: [1] }], then: 'EBUSY' },
];
