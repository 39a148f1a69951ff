#include "core/bpf_device.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>

#include "core/bpf_call.h"

namespace bulkhead {
namespace {

constexpr size_t kInstructionSize = sizeof(bpf_insn);
constexpr size_t kMaxInstructions = 4096;
// The kernel allows BPF_CGROUP_MAX_PROGS programs at one cgroup.
constexpr uint32_t kMaxPrograms = 64;

class ProgramFd {
 public:
  explicit ProgramFd(int fd) : fd_(fd) {}
  ~ProgramFd() {
    if (fd_ >= 0) ::close(fd_);
  }
  ProgramFd(const ProgramFd&) = delete;
  ProgramFd& operator=(const ProgramFd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Before Linux 5.11 programs were charged to RLIMIT_MEMLOCK, whose default is too small for several
// containers.
void raise_memlock() {
  rlimit limit;
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_MEMLOCK, &limit);
}

int load_program(std::span<const uint8_t> instructions) {
  static constexpr char kLicense[] = "Apache-2.0";
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = reinterpret_cast<uint64_t>(instructions.data());
  attr.insn_cnt = static_cast<uint32_t>(instructions.size() / kInstructionSize);
  attr.license = reinterpret_cast<uint64_t>(kLicense);
  attr.expected_attach_type = BPF_CGROUP_DEVICE;
  int fd = bpf(BPF_PROG_LOAD, &attr);
  if (fd < 0 && errno == EPERM) {
    raise_memlock();
    fd = bpf(BPF_PROG_LOAD, &attr);
  }
  return fd;
}

// Ids of the programs at this cgroup (not those inherited); the count, or -1 with errno.
int query_programs(int cgroup_fd, std::array<uint32_t, kMaxPrograms>& ids) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.query.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.query.attach_type = BPF_CGROUP_DEVICE;
  attr.query.prog_cnt = kMaxPrograms;
  attr.query.prog_ids = reinterpret_cast<uint64_t>(ids.data());
  if (bpf(BPF_PROG_QUERY, &attr) != 0) return -1;
  return static_cast<int>(attr.query.prog_cnt);
}

int program_by_id(uint32_t id) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.prog_id = id;
  return bpf(BPF_PROG_GET_FD_BY_ID, &attr);
}

// Attaches; with `replaced` ≥ 0 takes that program's place in one step.
int attach(int cgroup_fd, int program, int replaced) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.attach_bpf_fd = static_cast<uint32_t>(program);
  attr.attach_type = BPF_CGROUP_DEVICE;
  attr.attach_flags = BPF_F_ALLOW_MULTI;
  if (replaced >= 0) {
    attr.attach_flags |= BPF_F_REPLACE;
    attr.replace_bpf_fd = static_cast<uint32_t>(replaced);
  }
  return bpf(BPF_PROG_ATTACH, &attr);
}

int detach(int cgroup_fd, uint32_t id) {
  const ProgramFd program(program_by_id(id));
  if (program.get() < 0) return errno == ENOENT ? 0 : -1;  // gone by itself
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attr.attach_type = BPF_CGROUP_DEVICE;
  return bpf(BPF_PROG_DETACH, &attr);
}

}  // namespace

int attach_device_program(int cgroup_fd, std::span<const uint8_t> instructions) {
  const size_t count = instructions.size() / kInstructionSize;
  if (count == 0 || count > kMaxInstructions || instructions.size() % kInstructionSize != 0) {
    return EINVAL;
  }
  std::array<uint32_t, kMaxPrograms> old{};
  const int old_count = query_programs(cgroup_fd, old);
  if (old_count < 0) return errno;
  const ProgramFd program(load_program(instructions));
  if (program.get() < 0) return errno;

  // The usual case, one program of ours, is replaced in place. Kernels before 5.6 refuse
  // BPF_F_REPLACE with EINVAL.
  if (old_count == 1) {
    const ProgramFd replaced(program_by_id(old[0]));
    if (replaced.get() >= 0 && attach(cgroup_fd, program.get(), replaced.get()) == 0) return 0;
  }
  if (attach(cgroup_fd, program.get(), -1) != 0) return errno;
  for (int i = 0; i < old_count; ++i) {
    if (detach(cgroup_fd, old[static_cast<size_t>(i)]) != 0) return errno;
  }
  return 0;
}

int count_device_programs(int cgroup_fd) {
  std::array<uint32_t, kMaxPrograms> ids{};
  const int count = query_programs(cgroup_fd, ids);
  return count < 0 ? -errno : count;
}

}  // namespace bulkhead
