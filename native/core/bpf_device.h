// The device program of a cgroup v2 directory (BPF_PROG_TYPE_CGROUP_DEVICE): man 2 bpf, kernel
// cgroup-v2.rst.
#pragma once

#include <cstdint>
#include <span>

namespace bulkhead {

// Loads `instructions` (struct bpf_insn[], host byte order) and makes them the only device program
// attached to the cgroup directory `cgroup_fd` (borrowed). The container is never without a
// program: the new one is attached, or replaces the old one atomically (BPF_F_REPLACE, Linux 5.6),
// before any old one is detached. Returns 0 or an errno: EINVAL when the size is not that
// of 1..4096 instructions or the verifier refused, EPERM without CAP_BPF or CAP_SYS_ADMIN, EBADF
// when the descriptor is no cgroup v2 directory.
int attach_device_program(int cgroup_fd, std::span<const uint8_t> instructions);

// How many device programs are attached to the cgroup directory itself, or -errno.
int count_device_programs(int cgroup_fd);

}  // namespace bulkhead
