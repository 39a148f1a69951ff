#include "core/bpf_socket.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <unistd.h>

#include <array>

#include "core/bpf_call.h"
#include "core/fd.h"

namespace bulkhead {
namespace {

constexpr size_t kInstructionSize = sizeof(bpf_insn);
constexpr size_t kMaxInstructions = 65536;
constexpr uint32_t kMaxLogEntries = 4096;
constexpr uint32_t kMaxPrograms = 64;

UniqueFd make_map(uint32_t entries) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_LRU_HASH;
  attr.key_size = kSocketLogKeySize;
  attr.value_size = sizeof(uint64_t);
  attr.max_entries = entries;
  return UniqueFd(bpf(BPF_MAP_CREATE, &attr));
}

// Puts the map's descriptor where the program asks for it.
std::vector<bpf_insn> with_map(std::span<const uint8_t> bytes, int map) {
  std::vector<bpf_insn> code(bytes.size() / kInstructionSize);
  ::memcpy(code.data(), bytes.data(), bytes.size());
  for (size_t i = 0; i < code.size(); i++) {
    if (code[i].code != (BPF_LD | BPF_DW | BPF_IMM)) continue;
    if (code[i].src_reg == BPF_PSEUDO_MAP_FD) code[i].imm = map;
    i++;
  }
  return code;
}

UniqueFd load(const SocketProgramSpec& program, int map) {
  static constexpr char kLicense[] = "Apache-2.0";
  std::vector<bpf_insn> code = with_map(program.instructions, map);
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.prog_type = program.program_type;
  attr.insns = reinterpret_cast<uint64_t>(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = reinterpret_cast<uint64_t>(kLicense);
  attr.expected_attach_type = program.attach_type;
  return UniqueFd(bpf(BPF_PROG_LOAD, &attr));
}

int attach(int cgroup_fd, int program, uint32_t type) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.attach_bpf_fd = static_cast<uint32_t>(program);
  attr.attach_type = type;
  attr.attach_flags = BPF_F_ALLOW_MULTI;
  return bpf(BPF_PROG_ATTACH, &attr) == 0 ? 0 : errno;
}

UniqueFd by_id(int command, uint32_t id) {
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.prog_id = id;
  return UniqueFd(bpf(command, &attr));
}

// The first map of the first program of that type which has one. Invalid: there is none.
UniqueFd map_of(int cgroup_fd, uint32_t type) {
  std::array<uint32_t, kMaxPrograms> programs{};
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.query.target_fd = static_cast<uint32_t>(cgroup_fd);
  attr.query.attach_type = type;
  attr.query.prog_cnt = kMaxPrograms;
  attr.query.prog_ids = reinterpret_cast<uint64_t>(programs.data());
  if (bpf(BPF_PROG_QUERY, &attr) != 0) return {};
  for (uint32_t i = 0; i < attr.query.prog_cnt && i < kMaxPrograms; i++) {
    UniqueFd program = by_id(BPF_PROG_GET_FD_BY_ID, programs[i]);
    if (!program) continue;
    uint32_t map = 0;
    bpf_prog_info info;
    ::memset(&info, 0, sizeof(info));
    info.nr_map_ids = 1;
    info.map_ids = reinterpret_cast<uint64_t>(&map);
    bpf_attr query;
    ::memset(&query, 0, sizeof(query));
    query.info.bpf_fd = static_cast<uint32_t>(program.get());
    query.info.info_len = sizeof(info);
    query.info.info = reinterpret_cast<uint64_t>(&info);
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &query) != 0 || info.nr_map_ids == 0) continue;
    if (UniqueFd found = by_id(BPF_MAP_GET_FD_BY_ID, map); found) return found;
  }
  return {};
}

bool has_our_shape(int map) {
  bpf_map_info info;
  ::memset(&info, 0, sizeof(info));
  bpf_attr attr;
  ::memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = static_cast<uint32_t>(map);
  attr.info.info_len = sizeof(info);
  attr.info.info = reinterpret_cast<uint64_t>(&info);
  return bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0 && info.type == BPF_MAP_TYPE_LRU_HASH &&
         info.key_size == kSocketLogKeySize && info.value_size == sizeof(uint64_t);
}

void read_map(int map, std::vector<uint8_t>& entries) {
  uint8_t key[kSocketLogKeySize];
  uint8_t next[kSocketLogKeySize];
  const void* previous = nullptr;
  // Bounded: entries come and go while they are read.
  for (uint32_t i = 0; i < kMaxLogEntries; i++) {
    bpf_attr attr;
    ::memset(&attr, 0, sizeof(attr));
    attr.map_fd = static_cast<uint32_t>(map);
    attr.key = reinterpret_cast<uint64_t>(previous);
    attr.next_key = reinterpret_cast<uint64_t>(next);
    if (bpf(BPF_MAP_GET_NEXT_KEY, &attr) != 0) return;
    ::memcpy(key, next, sizeof key);
    previous = key;
    uint64_t count = 0;
    ::memset(&attr, 0, sizeof(attr));
    attr.map_fd = static_cast<uint32_t>(map);
    attr.key = reinterpret_cast<uint64_t>(key);
    attr.value = reinterpret_cast<uint64_t>(&count);
    if (bpf(BPF_MAP_LOOKUP_ELEM, &attr) != 0) continue;
    entries.insert(entries.end(), key, key + sizeof key);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&count);
    entries.insert(entries.end(), bytes, bytes + sizeof count);
  }
}

}  // namespace

int attach_socket_programs(int cgroup_fd, std::span<const SocketProgramSpec> programs,
                           uint32_t log_entries) {
  if (log_entries == 0 || log_entries > kMaxLogEntries) return EINVAL;
  for (const SocketProgramSpec& program : programs) {
    const size_t size = program.instructions.size();
    if (size == 0 || size % kInstructionSize != 0 || size / kInstructionSize > kMaxInstructions)
      return EINVAL;
  }
  UniqueFd map = make_map(log_entries);
  if (!map) return errno;
  // All are sound before the first takes effect.
  std::vector<UniqueFd> loaded;
  for (const SocketProgramSpec& program : programs) {
    loaded.push_back(load(program, map.get()));
    if (!loaded.back()) return errno;
  }
  for (size_t i = 0; i < loaded.size(); i++) {
    if (int err = attach(cgroup_fd, loaded[i].get(), programs[i].attach_type); err != 0) return err;
  }
  return 0;
}

int read_socket_log(int cgroup_fd, std::vector<uint8_t>& entries) {
  for (uint32_t type : {BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_BIND}) {
    UniqueFd map = map_of(cgroup_fd, type);
    if (!map || !has_our_shape(map.get())) continue;
    read_map(map.get(), entries);
    return 0;
  }
  return 0;
}

}  // namespace bulkhead
