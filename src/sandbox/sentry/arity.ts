/** How many arguments a call has, of those that come to the supervisor (syscalls(2), man pages of section 2). */
const counts: Readonly<Record<number, string>> = {
  0: 'getpgrp',
  1:
    'uname sysinfo personality sched_get_priority_max sched_get_priority_min sched_getscheduler time eventfd epoll_create ' +
    'times getpgid getsid unshare umount2 fsopen acct syslog setfsuid setfsgid sethostname swapoff mlockall',
  2:
    'sched_getparam gettimeofday clock_getres eventfd2 timerfd_create getrusage getpriority getgroups setns pivot_root ' +
    'clock_settime settimeofday mlock munlock setreuid setregid swapon fanotify_init pidfd_getfd sched_setparam ' +
    'arch_prctl userfaultfd',
  3:
    'sched_getaffinity getresuid getresgid bpf socket ioctl fcntl madvise mknod seccomp open_tree kcmp ' +
    'sched_setscheduler fspick fsmount init_module finit_module ioprio_set',
  4: 'ptrace prlimit64 socketpair mknodat reboot clock_adjtime quotactl',
  5: 'mount prctl clone setsockopt getsockopt perf_event_open mount_setattr move_mount fsconfig kexec_file_load',
  6: 'mmap futex process_vm_readv process_vm_writev',
};

const byName = new Map(
  Object.entries(counts).flatMap(([count, names]) => names.split(' ').map((name) => [name, Number(count)])),
);

/** undefined when it is not known here. */
export function argumentCount(name: string): number | undefined {
  return byName.get(name);
}
