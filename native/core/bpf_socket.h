// BPF programs at a cgroup that decide about its sockets, and the map in which they count what they
// refuse: man 2 bpf, kernel prog_cgroup_sock_addr.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace bulkhead {

struct SocketProgramSpec {
  uint32_t program_type;                  // BPF_PROG_TYPE_*
  uint32_t attach_type;                   // BPF_CGROUP_*
  std::span<const uint8_t> instructions;  // struct bpf_insn[], host byte order
};

inline constexpr size_t kSocketLogKeySize = 24;

// Loads the programs with one map of `log_entries` entries between them and attaches them to the
// cgroup v2 directory `cgroup_fd` (borrowed); they go with the cgroup. 0 or an errno: EINVAL for
// what is no program or what the verifier refuses, EPERM without CAP_NET_ADMIN and CAP_BPF.
int attach_socket_programs(int cgroup_fd, std::span<const SocketProgramSpec> programs,
                           uint32_t log_entries);

// Key (24 bytes) and count (8 bytes) of every refusal in the map of the cgroup's programs; empty
// when it has none. 0 or an errno.
int read_socket_log(int cgroup_fd, std::vector<uint8_t>& entries);

}  // namespace bulkhead
