// The supervisor's own walls: it lives in the user namespace of its sandbox, so what it has means
// nothing on the host; this is for whoever finds a way to make it do something else than its work.
#include "sentry/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "sentry/identity.h"

namespace bulkhead::sentry {

namespace {

constexpr int kFchmodat2 = 452;

constexpr int kAllowed[] = {
    // the loop and its threads
    SYS_poll,
    SYS_epoll_wait,
    SYS_ioctl,
    SYS_accept4,
    SYS_recvmsg,
    SYS_sendto,
    SYS_epoll_ctl,
    SYS_futex,
    SYS_clock_nanosleep,
    SYS_getpid,
    SYS_tgkill,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_restart_syscall,
    SYS_brk,
    SYS_munmap,
    SYS_madvise,
    SYS_exit_group,
    SYS_exit,
    // callers
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    // being them
    SYS_setgroups,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_capset,
    SYS_umask,
    SYS_fchdir,
    SYS_chroot,
    // views and descriptors of no file
    SYS_pread64,
    SYS_read,
    SYS_close,
    SYS_fcntl,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_sysinfo,
    SYS_eventfd2,
    SYS_epoll_create1,
    SYS_timerfd_create,
    SYS_inotify_init1,
    SYS_sched_getaffinity,
    SYS_getpriority,
    // files: by name only what is beneath the sandbox's root, which is the supervisor's too
    SYS_openat,
    SYS_openat2,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_fstatfs,
    SYS_readlinkat,
    SYS_faccessat2,
    SYS_inotify_add_watch,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmodat,
    kFchmodat2,
    SYS_fchownat,
    SYS_utimensat,
    SYS_ftruncate,
    SYS_fsync,
    SYS_listen,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_flock,
    SYS_fdatasync,
    SYS_timerfd_settime,
    SYS_inotify_rm_watch,
};

// Where callers may ask for mounts.
constexpr int kMounting[] = {
    SYS_fsopen,     SYS_fsconfig,      SYS_fsmount, SYS_open_tree,
    SYS_move_mount, SYS_mount_setattr, SYS_umount2,
};

// Memory, but no code.
constexpr int kWithoutCode[] = {SYS_mmap, SYS_mprotect};
constexpr uint32_t kProtExec = 4;

}  // namespace

int keep_capabilities(bool mounts) {
  uint64_t kept = kept_capabilities(mounts);
  for (int capability = 0; capability < 64; capability++) {
    if ((kept >> capability & 1) == 0 && ::prctl(PR_CAPBSET_DROP, capability) < 0 &&
        errno != EINVAL) {
      return errno;
    }
  }
  set_kept_capabilities(kept);
  // At rest it can look into the sandbox's processes, and nothing else.
  return Impersonation().become(Identity());
}

int confine(bool mounts) {
  std::vector<sock_filter> code;
  auto statement = [&](unsigned op, uint32_t k) {
    code.push_back(BPF_STMT(static_cast<uint16_t>(op), k));
  };
  auto unless_equal = [&](uint32_t k, uint8_t skip) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, 0, skip));
  };
  statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  auto allow = [&](int number) {
    unless_equal(static_cast<uint32_t>(number), 1);
    statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  };
  for (int number : kAllowed) allow(number);
  if (mounts) {
    for (int number : kMounting) allow(number);
  }
  for (int number : kWithoutCode) {
    unless_equal(static_cast<uint32_t>(number), 4);
    statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2]));
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kProtExec, 1, 0));
    statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  }
  statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  // A thread that cannot follow is named by its id.
  long result =
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  return result < 0 ? errno : result > 0 ? EBUSY : 0;
}

}  // namespace bulkhead::sentry
