// The launch plan as the executor sees it: proto/launch_plan.proto, one struct a step. Each struct
// names its fields once, in fields(), for the decoder. Texts and bytes point into the plan and live
// as long as it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

namespace bulkhead {

// A text without NUL bytes inside, ended by one.
struct Text {
  const char* data = "";
  uint32_t size = 0;

  const char* c_str() const { return data; }
  std::string_view view() const { return {data, size}; }
  bool empty() const { return size == 0; }
};
using Bytes = std::span<const uint8_t>;

// A slot number 1..4095, 0: none.
struct SlotId {
  uint32_t value = 0;
  explicit operator bool() const { return value != 0; }
};
inline constexpr uint32_t kMaxSlots = 4096;

enum class Propagation : uint32_t { kUnchanged, kPrivate, kSlave, kShared, kUnbindable };
constexpr uint32_t enum_limit(Propagation) {
  return 5;
}
enum class TargetKind : uint32_t { kExisting, kDirectory, kFile, kLikeSource };
constexpr uint32_t enum_limit(TargetKind) {
  return 4;
}
enum class NodeType : uint32_t { kChar, kBlock, kFifo };
constexpr uint32_t enum_limit(NodeType) {
  return 3;
}

// A zigzag-encoded sint32.
struct Signed {
  int32_t value = 0;
};

struct IdMap {
  uint32_t container_id = 0, host_id = 0, size = 0;
  void fields(auto& f) { f(1, container_id), f(2, host_id), f(3, size); }
};

struct MakeCgroup {
  static constexpr uint32_t kAction = 1;
  Text path;
  bool inherit_cpuset = false;
  std::vector<Text> enable_controllers;
  void fields(auto& f) { f(1, path), f(2, inherit_cpuset), f(3, enable_controllers); }
};
struct WriteFile {
  static constexpr uint32_t kAction = 2;
  Text path;
  Bytes data;
  std::vector<int32_t> ignore_errno;
  uint32_t retries = 0;
  void fields(auto& f) { f(1, path), f(2, data), f(3, ignore_errno), f(4, retries); }
};
struct AttachDeviceProgram {
  static constexpr uint32_t kAction = 3;
  Text cgroup;
  Bytes instructions;
  void fields(auto& f) { f(1, cgroup), f(2, instructions); }
};
struct JoinCgroup {
  static constexpr uint32_t kAction = 4;
  Text path;
  bool single_thread = false, at_clone = false;
  void fields(auto& f) { f(1, path), f(2, single_thread), f(3, at_clone); }
};
struct JoinNamespace {
  static constexpr uint32_t kAction = 5;
  Text path;
  uint32_t pid = 0;
  uint64_t pid_start_time = 0, types = 0;
  void fields(auto& f) { f(1, path), f(2, pid), f(3, pid_start_time), f(4, types); }
};
struct Unshare {
  static constexpr uint32_t kAction = 6;
  uint64_t flags = 0;
  void fields(auto& f) { f(1, flags); }
};
struct OpenTree {
  static constexpr uint32_t kAction = 7;
  SlotId slot;
  Text path;
  bool recursive = false, nofollow = false, path_only = false;
  SlotId base_slot;
  void fields(auto& f) {
    f(1, slot), f(2, path), f(3, recursive), f(4, nofollow), f(5, path_only), f(6, base_slot);
  }
};
struct FsMount {
  static constexpr uint32_t kAction = 8;
  SlotId slot;
  Text fstype, source;
  std::vector<Text> options;
  uint64_t attr_flags = 0;
  bool superblock_ro = false;
  Text fallback_target;
  std::vector<IdMap> uid_maps, gid_maps;
  void fields(auto& f) {
    f(1, slot), f(2, fstype), f(3, source), f(4, options), f(5, attr_flags), f(6, superblock_ro);
    f(7, fallback_target), f(8, uid_maps), f(9, gid_maps);
  }
};
struct OpenFile {
  static constexpr uint32_t kAction = 9;
  SlotId slot;
  Text path;
  uint32_t flags = 0;
  uint32_t descriptor = 0;
  void fields(auto& f) { f(1, slot), f(2, path), f(3, flags), f(4, descriptor); }
};
struct Clone {
  static constexpr uint32_t kAction = 10;
  uint64_t namespaces = 0;
  std::vector<IdMap> uid_maps, gid_maps;
  bool deny_setgroups = false;
  void fields(auto& f) { f(1, namespaces), f(2, uid_maps), f(3, gid_maps), f(4, deny_setgroups); }
};

struct MountSetattr {
  static constexpr uint32_t kAction = 20;
  SlotId slot;
  uint64_t set = 0, clear = 0;
  bool recursive = false;
  Propagation propagation{};
  bool propagation_recursive = false;
  std::vector<IdMap> uid_maps, gid_maps;
  bool idmap_recursive = false;
  void fields(auto& f) {
    f(1, slot), f(2, set), f(3, clear), f(4, recursive), f(5, propagation);
    f(6, propagation_recursive), f(7, uid_maps), f(8, gid_maps), f(9, idmap_recursive);
  }
};
struct EnterRoot {
  static constexpr uint32_t kAction = 21;
  Text path;
  void fields(auto& f) { f(1, path); }
};
struct Attach {
  static constexpr uint32_t kAction = 22;
  SlotId slot;
  Text target;
  TargetKind make{};
  uint32_t make_mode = 0;
  bool host_target = false, require_directory = false, tmpcopyup = false, optional = false;
  bool copy_mode = false;
  void fields(auto& f) {
    f(1, slot), f(2, target), f(3, make), f(4, make_mode), f(5, host_target);
    f(6, require_directory), f(7, tmpcopyup), f(8, optional), f(9, copy_mode);
  }
};
struct SetPropagation {
  static constexpr uint32_t kAction = 23;
  Text path;
  Propagation propagation{};
  bool recursive = false;
  void fields(auto& f) { f(1, path), f(2, propagation), f(3, recursive); }
};
struct Mkdir {
  static constexpr uint32_t kAction = 24;
  Text target;
  uint32_t mode = 0, uid = 0, gid = 0;
  void fields(auto& f) { f(1, target), f(2, mode), f(3, uid), f(4, gid); }
};
struct Mknod {
  static constexpr uint32_t kAction = 25;
  Text target;
  NodeType type{};
  uint32_t major = 0, minor = 0, mode = 0, uid = 0, gid = 0;
  SlotId bind_slot;
  void fields(auto& f) {
    f(1, target), f(2, type), f(3, major), f(4, minor), f(5, mode), f(6, uid), f(7, gid);
    f(8, bind_slot);
  }
};
struct Symlink {
  static constexpr uint32_t kAction = 26;
  Text target, contents;
  bool optional = false;
  void fields(auto& f) { f(1, target), f(2, contents), f(3, optional); }
};
struct PivotRoot {
  static constexpr uint32_t kAction = 27;
  bool no_pivot = false;
  Propagation root_propagation{};
  bool propagation_recursive = false;
  void fields(auto& f) { f(1, no_pivot), f(2, root_propagation), f(3, propagation_recursive); }
};
struct MaskPath {
  static constexpr uint32_t kAction = 28;
  Text target;
  void fields(auto& f) { f(1, target); }
};
struct ReadonlyPath {
  static constexpr uint32_t kAction = 29;
  Text target;
  void fields(auto& f) { f(1, target); }
};
struct RemountRoot {
  static constexpr uint32_t kAction = 30;
  uint64_t set = 0;
  void fields(auto& f) { f(1, set); }
};

struct Hostname {
  static constexpr uint32_t kAction = 40;
  Text name;
  void fields(auto& f) { f(1, name); }
};
struct Domainname {
  static constexpr uint32_t kAction = 41;
  Text name;
  void fields(auto& f) { f(1, name); }
};
struct Sysctl {
  static constexpr uint32_t kAction = 42;
  Text key, value;
  void fields(auto& f) { f(1, key), f(2, value); }
};
struct LoopbackUp {
  static constexpr uint32_t kAction = 43;
  void fields(auto&) {}
};
struct Rlimit {
  static constexpr uint32_t kAction = 44;
  uint32_t resource = 0;
  uint64_t soft = 0, hard = 0;
  void fields(auto& f) { f(1, resource), f(2, soft), f(3, hard); }
};
struct OomScoreAdj {
  static constexpr uint32_t kAction = 45;
  Signed value;
  bool best_effort = false;
  void fields(auto& f) { f(1, value), f(2, best_effort); }
};
struct Umask {
  static constexpr uint32_t kAction = 46;
  uint32_t mask = 0;
  void fields(auto& f) { f(1, mask); }
};
struct Personality {
  static constexpr uint32_t kAction = 47;
  uint32_t persona = 0;
  void fields(auto& f) { f(1, persona); }
};
struct IoPriority {
  static constexpr uint32_t kAction = 48;
  uint32_t ioprio_class = 0, priority = 0;
  void fields(auto& f) { f(1, ioprio_class), f(2, priority); }
};
struct Scheduler {
  static constexpr uint32_t kAction = 49;
  uint32_t policy = 0;
  Signed nice;
  uint32_t priority = 0;
  uint64_t flags = 0, runtime = 0, deadline = 0, period = 0;
  void fields(auto& f) {
    f(1, policy), f(2, nice), f(3, priority), f(4, flags), f(5, runtime), f(6, deadline);
    f(7, period);
  }
};
struct CpuAffinity {
  static constexpr uint32_t kAction = 50;
  Bytes mask;
  void fields(auto& f) { f(1, mask); }
};
struct SessionKeyring {
  static constexpr uint32_t kAction = 51;
  Text name;
  void fields(auto& f) { f(1, name); }
};
struct LsmExecLabel {
  static constexpr uint32_t kAction = 52;
  Text lsm, label;
  void fields(auto& f) { f(1, lsm), f(2, label); }
};
struct Terminal {
  static constexpr uint32_t kAction = 53;
  bool mount_console = false;
  uint32_t uid = 0, width = 0, height = 0;
  void fields(auto& f) { f(1, mount_console), f(2, uid), f(3, width), f(4, height); }
};
struct OwnStdio {
  static constexpr uint32_t kAction = 54;
  uint32_t uid = 0, gid = 0;
  void fields(auto& f) { f(1, uid), f(2, gid); }
};
struct FindExecutable {
  static constexpr uint32_t kAction = 55;
  Text file, path, cwd;
  bool default_home = false;
  void fields(auto& f) { f(1, file), f(2, path), f(3, cwd), f(4, default_home); }
};
struct Gate {
  static constexpr uint32_t kAction = 56;
  Text point;
  SlotId fifo_slot;
  void fields(auto& f) { f(1, point), f(2, fifo_slot); }
};
struct RunHook {
  static constexpr uint32_t kAction = 57;
  Text path;
  std::vector<Text> args, env;
  uint32_t timeout_seconds = 0;
  Bytes state_prefix, state_suffix;
  void fields(auto& f) {
    f(1, path), f(2, args), f(3, env), f(4, timeout_seconds), f(5, state_prefix);
    f(6, state_suffix);
  }
};
struct User {
  static constexpr uint32_t kAction = 58;
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> additional_gids;
  bool keep_groups = false;
  void fields(auto& f) { f(1, uid), f(2, gid), f(3, additional_gids), f(4, keep_groups); }
};
struct BoundingSet {
  static constexpr uint32_t kAction = 59;
  uint64_t mask = 0;
  void fields(auto& f) { f(1, mask); }
};
struct Capabilities {
  static constexpr uint32_t kAction = 60;
  uint64_t effective = 0, permitted = 0, inheritable = 0, ambient = 0;
  void fields(auto& f) { f(1, effective), f(2, permitted), f(3, inheritable), f(4, ambient); }
};
struct NoNewPrivs {
  static constexpr uint32_t kAction = 61;
  void fields(auto&) {}
};
struct Seccomp {
  static constexpr uint32_t kAction = 62;
  Bytes program;
  uint32_t flags = 0;
  SlotId listener_slot;
  Bytes state_prefix, state_suffix;
  void fields(auto& f) {
    f(1, program), f(2, flags), f(3, listener_slot), f(4, state_prefix), f(5, state_suffix);
  }
};
struct Chdir {
  static constexpr uint32_t kAction = 63;
  Text path;
  bool create = false;
  void fields(auto& f) { f(1, path), f(2, create); }
};
struct ParentDeathSignal {
  static constexpr uint32_t kAction = 64;
  uint32_t signal = 0;
  void fields(auto& f) { f(1, signal); }
};
struct Exec {
  static constexpr uint32_t kAction = 65;
  Text file;
  std::vector<Text> args, env;
  uint32_t preserve_fds = 0;
  void fields(auto& f) { f(1, file), f(2, args), f(3, env), f(4, preserve_fds); }
};
struct Landlock {
  static constexpr uint32_t kAction = 66;
  bool best_effort = false;
  void fields(auto& f) { f(1, best_effort); }
};
struct Listen {
  static constexpr uint32_t kAction = 67;
  Text path;
  uint32_t index = 0;
  bool blocking = false;
  void fields(auto& f) { f(1, path), f(2, index), f(3, blocking); }
};
struct Unmount {
  static constexpr uint32_t kAction = 68;
  Text path;
  void fields(auto& f) { f(1, path); }
};
struct Exit {
  static constexpr uint32_t kAction = 69;
  void fields(auto&) {}
};

struct SocketProgram {
  uint32_t program_type = 0, attach_type = 0;
  Bytes instructions;
  void fields(auto& f) { f(1, program_type), f(2, attach_type), f(3, instructions); }
};
struct SocketPolicy {
  static constexpr uint32_t kAction = 80;
  Text cgroup;
  std::vector<SocketProgram> programs;
  uint32_t log_entries = 0;
  void fields(auto& f) { f(1, cgroup), f(2, programs), f(3, log_entries); }
};

using StepBody =
    std::variant<MakeCgroup, WriteFile, AttachDeviceProgram, JoinCgroup, JoinNamespace, Unshare,
                 OpenTree, FsMount, OpenFile, Clone, MountSetattr, EnterRoot, Attach,
                 SetPropagation, Mkdir, Mknod, Symlink, PivotRoot, MaskPath, ReadonlyPath,
                 RemountRoot, Hostname, Domainname, Sysctl, LoopbackUp, Rlimit, OomScoreAdj, Umask,
                 Personality, IoPriority, Scheduler, CpuAffinity, SessionKeyring, LsmExecLabel,
                 Terminal, OwnStdio, FindExecutable, Gate, RunHook, User, BoundingSet, Capabilities,
                 NoNewPrivs, Seccomp, Chdir, ParentDeathSignal, Exec, Landlock, Listen, Unmount,
                 Exit, SocketPolicy>;

struct Step {
  uint32_t action = 0;
  StepBody body;
};

struct Plan {
  uint32_t version = 0;
  Text id;
  std::vector<Step> steps;
  // Holds the texts, each ended by a NUL.
  std::unique_ptr<char[]> texts;
};

}  // namespace bulkhead
