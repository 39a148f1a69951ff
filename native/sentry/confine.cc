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

namespace bulkhead::sentry {

namespace {

constexpr int kAllowed[] = {
    SYS_epoll_wait,
    SYS_ioctl,
    SYS_pread64,
    SYS_pwrite64,
    SYS_read,
    SYS_close,
    SYS_accept4,
    SYS_recvmsg,
    SYS_sendto,
    SYS_epoll_ctl,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_sysinfo,
    SYS_eventfd2,
    SYS_epoll_create1,
    SYS_timerfd_create,
    SYS_sched_getaffinity,
    SYS_getpriority,
    SYS_rt_sigreturn,
    SYS_restart_syscall,
    SYS_brk,
    SYS_exit_group,
    SYS_exit,
};

constexpr uint64_t kKept = 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_OVERRIDE;

int keep_two_capabilities() {
  for (int capability = 0; capability < 64; capability++) {
    if ((kKept >> capability & 1) == 0 && ::prctl(PR_CAPBSET_DROP, capability) < 0 &&
        errno != EINVAL) {
      return errno;
    }
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  data[0].effective = data[0].permitted = static_cast<uint32_t>(kKept);
  return ::syscall(SYS_capset, &header, data) < 0 ? errno : 0;
}

}  // namespace

int confine(int proc) {
  if (int error = keep_two_capabilities(); error != 0) return error;
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
  for (int number : kAllowed) {
    unless_equal(static_cast<uint32_t>(number), 1);
    statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  // openat: only relative to /proc's descriptor. An absolute name would still be one; who can write
  // that can as well do what the sandbox's root can.
  unless_equal(SYS_openat, 3);
  statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args));
  unless_equal(static_cast<uint32_t>(proc), 1);
  statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? errno : 0;
}

}  // namespace bulkhead::sentry
