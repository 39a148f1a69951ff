/**
 * THE table: what happens to every system call of a workload under the sentry wall, profile "kernel". The filter, the
 * supervisor's dispatch, docs/sentry-syscalls.md and the tests come from it. A call that is not here is refused with
 * ENOSYS, as are all calls by i386's and x32's numbers.
 *
 * A call is direct when ordinary programs need it and no cheaper answer will do; brokered when it is rare and the
 * supervisor can do it; refused when C libraries and programs go on without it.
 */
import {
  archPrctlRules,
  cloneRules,
  fcntlRules,
  futexRules,
  getsockoptRules,
  ioctlRules,
  madviseRules,
  mknodRules,
  mknodatRules,
  mmapRules,
  prctlRules,
  prlimitRules,
  shmctlRules,
  shmgetRules,
  seccompRules,
  setsockoptRules,
  socketRules,
  socketpairRules,
} from './arguments.ts';
import { systemCallNumbers } from './numbers.ts';
import type { Decision, ErrnoName, HandlerName, Rule, SystemCall } from './rules.ts';

type Row = readonly [names: string, decision: Decision, note: string];

const direct = (names: string, note: string): Row => [names, { use: 'direct' }, note];
const partly = (names: string, rules: readonly Rule[], otherwise: ErrnoName, note: string): Row => [
  names,
  { use: 'direct', rules, otherwise },
  note,
];
const broker = (names: string, handler: HandlerName, note: string): Row => [
  names,
  { use: 'broker', handler },
  note,
];
const view = (names: string, handler: HandlerName, note: string): Row => [
  names,
  { use: 'view', handler },
  note,
];
const refuse = (names: string, errno: ErrnoName, note: string): Row => [
  names,
  { use: 'refuse', errno },
  note,
];

const files: readonly Row[] = [
  direct(
    'read write close lseek pread64 pwrite64 readv writev preadv pwritev sendfile dup dup2 dup3 pipe pipe2 flock fsync fdatasync ' +
      'ftruncate fstat getdents64 fstatfs close_range',
    'on descriptors that the sandbox has',
  ),
  direct(
    'open openat creat stat lstat newfstatat access faccessat readlink readlinkat chdir fchdir getcwd statfs',
    'paths: the mount namespace decides, in the kernel and without a race',
  ),
  direct(
    'rename renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat chmod fchmod fchmodat chown ' +
      'fchown lchown fchownat umask utimensat',
    'paths, as above; ids are those of the user namespace',
  ),
  partly('ioctl', ioctlRules, 'ENOTTY', 'terminals, descriptors, interface queries; no TIOCSTI'),
  partly('fcntl', fcntlRules, 'EINVAL', 'no leases, no directory notification'),
  partly('mknod', mknodRules, 'EPERM', 'files, fifos, sockets; no devices'),
  partly('mknodat', mknodatRules, 'EPERM', 'files, fifos, sockets; no devices'),
  refuse(
    'setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr ' +
      'lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat fallocate',
    'EOPNOTSUPP',
    'as on a file system without it; C libraries and programs go on',
  ),
  refuse('splice tee vmsplice', 'EINVAL', 'as between files that cannot do it; programs copy'),
  refuse(
    'statx faccessat2 fchmodat2 openat2 renameat copy_file_range preadv2 pwritev2 ' +
      'execveat memfd_create cachestat',
    'ENOSYS',
    'newer than what C libraries need: they go on with older calls',
  ),
  refuse(
    'truncate getdents utime utimes futimesat ustat sysfs uselib _sysctl readahead fadvise64 sync_file_range ' +
      'syncfs sync',
    'ENOSYS',
    'older or rarer than what C libraries need',
  ),
  refuse('name_to_handle_at open_by_handle_at', 'EOPNOTSUPP', 'file handles know no mount namespace'),
  refuse('fanotify_init fanotify_mark', 'EPERM', 'watches whole file systems'),
  refuse(
    'io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents io_uring_setup io_uring_enter ' +
      'io_uring_register',
    'ENOSYS',
    'programs use threads or epoll',
  ),
];

const waiting: readonly Row[] = [
  direct(
    'poll ppoll select pselect6 epoll_ctl epoll_wait epoll_pwait signalfd4 inotify_add_watch',
    'waiting',
  ),
  broker('eventfd eventfd2', 'eventfd', 'made by the supervisor and handed over'),
  broker('epoll_create1', 'epollWithFlags', 'made by the supervisor and handed over'),
  broker('inotify_init1 inotify_init', 'inotify', 'made by the supervisor and handed over'),
  broker('inotify_rm_watch', 'removeWatch', "on the caller's descriptor"),
  broker('timerfd_settime', 'setTimerfd', "on the caller's descriptor"),
  broker('epoll_create', 'epoll', 'made by the supervisor and handed over'),
  broker('timerfd_create', 'timerfd', 'made by the supervisor and handed over; no alarm clocks'),
  refuse(
    'timer_create timer_settime timer_gettime timer_getoverrun timer_delete getitimer timerfd_gettime',
    'ENOSYS',
    'programs use setitimer or timerfd',
  ),
  refuse('signalfd epoll_pwait2 epoll_ctl_old epoll_wait_old', 'ENOSYS', 'others do the same'),
];

const memory: readonly Row[] = [
  direct('mprotect munmap brk mremap msync', 'own memory'),
  partly('mmap', mmapRules, 'EINVAL', 'own memory; no huge, locked or growing mappings'),
  partly('madvise', madviseRules, 'EINVAL', 'advice about own memory, of the harmless kinds'),
  direct('shmat shmdt', "segments of the sandbox's own IPC namespace"),
  partly('shmget', shmgetRules, 'EINVAL', 'no huge pages'),
  partly('shmctl', shmctlRules, 'EINVAL', 'removal, attributes; no locking, nothing of the whole system'),
  refuse('mlock munlock mlockall munlockall mlock2', 'EPERM', 'as without a limit for locked memory'),
  refuse(
    'pkey_mprotect pkey_alloc pkey_free memfd_secret remap_file_pages mincore mseal map_shadow_stack ' +
      'mbind set_mempolicy get_mempolicy migrate_pages move_pages set_mempolicy_home_node',
    'ENOSYS',
    "programs go on without, or memory placement is the cgroup's",
  ),
  refuse('userfaultfd', 'EPERM', 'lets a thread hold the kernel up'),
];

const processes: readonly Row[] = [
  direct(
    'fork vfork execve exit exit_group wait4 waitid getpid getppid gettid setpgid setsid set_tid_address',
    'processes of the pid namespace',
  ),
  partly('clone', cloneRules, 'EPERM', 'no new namespaces'),
  refuse('clone3', 'ENOSYS', 'its flags lie in memory; C libraries go on with clone'),
  direct(
    'rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack pause alarm setitimer ' +
      'nanosleep clock_nanosleep restart_syscall',
    'signals and timers of the process',
  ),
  direct('kill tkill tgkill', 'within the pid namespace'),
  direct(
    'set_robust_list membarrier sched_yield sched_setaffinity setpriority',
    'threads of the pid namespace',
  ),
  partly('futex', futexRules, 'ENOSYS', 'no priority inheritance'),
  partly('prctl', prctlRules, 'EINVAL', 'own switches; not PR_SET_MM, PR_SET_PTRACER and the like'),
  partly('arch_prctl', archPrctlRules, 'EINVAL', 'FS and GS bases'),
  partly('prlimit64', prlimitRules, 'EPERM', 'own limits'),
  partly('seccomp', seccompRules, 'EINVAL', "filters of the workload's own; no second listener"),
  broker('getpgrp getpgid getsid', 'processGroup', 'of the calling process, from procfs'),
  broker('getrusage', 'rusage', 'times and faults, from procfs'),
  broker('times', 'times', 'from procfs'),
  broker('getpriority', 'getPriority', 'of the calling process'),
  view('sched_getaffinity', 'getAffinity', 'of the calling thread, whichever it asks for'),
  view('sched_get_priority_max sched_get_priority_min', 'schedPriorityRange', 'constants'),
  view('sched_getscheduler', 'schedGetScheduler', 'SCHED_OTHER'),
  view('sched_getparam', 'schedGetParam', 'priority 0'),
  refuse(
    'sched_setparam sched_setscheduler sched_setattr sched_getattr ioprio_set ioprio_get',
    'EPERM',
    "scheduling is the cgroup's",
  ),
  refuse(
    'ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd',
    'EPERM',
    'no process looks into another',
  ),
  refuse(
    'getrlimit setrlimit getcpu get_robust_list rseq rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open ' +
      'pidfd_send_signal futex_waitv futex_wake futex_wait futex_requeue sched_rr_get_interval',
    'ENOSYS',
    'C libraries go on with older calls',
  ),
  refuse(
    'semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend mq_timedreceive ' +
      'mq_notify mq_getsetattr',
    'ENOSYS',
    'as on a kernel without them',
  ),
];

const identity: readonly Row[] = [
  direct(
    'getuid geteuid getgid getegid setgroups setuid setgid setresuid setresgid capget capset chroot',
    'ids and capabilities, of the user namespace',
  ),
  broker('getresuid getresgid getgroups', 'ids', 'from procfs'),
  refuse('setreuid setregid setfsuid setfsgid', 'EPERM', 'setresuid and setresgid do the same'),
  direct('getrandom', 'random numbers'),
  view('uname', 'uname', "release without the vendor's part, no build of the host"),
  view('sysinfo', 'sysinfo', 'memory is what the cgroup allows; no load of the host'),
  view('personality', 'personality', 'always that of Linux; a change is EINVAL'),
  direct('clock_gettime', "the host's clocks, to read"),
  broker('time gettimeofday clock_getres', 'clock', 'the vDSO answers them elsewhere'),
];

const network: readonly Row[] = [
  partly('socket', socketRules, 'EAFNOSUPPORT', 'unix, TCP, UDP, echo and rtnetlink sockets'),
  partly('socketpair', socketpairRules, 'EAFNOSUPPORT', 'unix sockets'),
  partly('setsockopt', setsockoptRules, 'ENOPROTOOPT', 'a list; no packet filters, no firewall'),
  partly('getsockopt', getsockoptRules, 'ENOPROTOOPT', 'the same list, and what can only be read'),
  direct(
    'connect bind accept accept4 getsockname getpeername sendto recvfrom sendmsg recvmsg sendmmsg',
    "sockets of the pod's network namespace",
  ),
  broker('listen shutdown', 'socketState', "on the caller's descriptor"),
  refuse('recvmmsg', 'ENOSYS', 'programs go on with recvmsg'),
];

const host: readonly Row[] = [
  refuse('unshare setns', 'EPERM', 'no namespaces of its own'),
  refuse(
    'mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr ' +
      'statmount listmount',
    'EPERM',
    "the mounts are the runtime's",
  ),
  refuse('bpf perf_event_open', 'EPERM', 'large parts of the kernel behind one call'),
  refuse('add_key request_key keyctl', 'ENOSYS', 'keyrings are not in namespaces'),
  refuse(
    'landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_set_self_attr ' +
      'lsm_list_modules',
    'ENOSYS',
    'programs that confine themselves use seccomp',
  ),
  refuse(
    'modify_ldt set_thread_area get_thread_area iopl ioperm',
    'ENOSYS',
    "of 32-bit programs, or the machine's",
  ),
  refuse(
    'sethostname setdomainname vhangup acct quotactl quotactl_fd swapon swapoff reboot kexec_load kexec_file_load ' +
      'init_module finit_module delete_module syslog settimeofday clock_settime adjtimex clock_adjtime ' +
      'lookup_dcookie',
    'EPERM',
    "the host's administration",
  ),
  refuse(
    'create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver ' +
      'file_getattr file_setattr',
    'ENOSYS',
    'not there, or not for programs',
  ),
  refuse(
    'uretprobe uprobe',
    'ENOSYS',
    'newer kernels keep these from every filter; without a probe they end the process or fail with ENXIO',
  ),
];

/** Names of the groups, as the documentation shows them. */
export const systemCallGroups: ReadonlyMap<string, readonly SystemCall[]> = new Map(
  Object.entries({ files, waiting, memory, processes, identity, network, host }).map(([group, rows]) => [
    group,
    rows.flatMap(expand),
  ]),
);

function expand([names, decision, note]: Row): SystemCall[] {
  return names.split(' ').map((name) => {
    const number = systemCallNumbers.get(name);
    if (number === undefined) throw new Error(`sentry: ${name}: no such system call`);
    return { number, name, decision, note };
  });
}

/** Every known call, by number. */
export const systemCalls: readonly SystemCall[] = [...systemCallGroups.values()]
  .flat()
  .sort((a, b) => a.number - b.number);

/** What a call that is not in the table gets: those of kernels to come, and those of other architectures. */
export const unknownCall: Decision = { use: 'refuse', errno: 'ENOSYS' };
