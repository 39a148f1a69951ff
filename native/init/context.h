// What the steps share: the sync socket, the slots, the root, and the result of a step.
#pragma once

#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "core/init_codec.h"
#include "init/plan.h"

namespace bulkhead {

// Result of a step. err 0: done.
struct [[nodiscard]] Outcome {
  int err = 0;
  // Finer than errno; a word with static lifetime (StepFailed.detail).
  const char* detail = "";
  std::string path;
  int status = 0;
  std::string output;

  bool ok() const { return err == 0; }
};
inline Outcome done() {
  return {};
}
inline Outcome fail_with(int err, const char* detail, std::string_view path = {}) {
  return Outcome{err == 0 ? EIO : err, detail, std::string(path), 0, {}};
}
// With the present errno.
inline Outcome fail(const char* detail, std::string_view path = {}) {
  return fail_with(errno, detail, path);
}

// A mount that mount(2) has to make because the file system refused fsopen's way.
struct LateMount {
  std::string fstype, source, data, target;
  unsigned long flags = 0;
};

struct Slot {
  UniqueFd fd;
  // Index of the last step that uses the slot; it is closed then, so that nothing of the host stays
  // open longer than it is needed (CVE-2024-21626).
  uint32_t last_use = 0;
  // FsMount's fall-back: mount at Attach, or done already.
  std::unique_ptr<LateMount> late_mount;
  bool mounted = false;
};

struct NamespaceFile {
  uint32_t step;
  UniqueFd fd;
};

// A user namespace made for an id-mapped mount, reused by mounts with the same maps.
struct MappedNamespace {
  std::vector<IdMap> uid_maps, gid_maps;
  UniqueFd fd;
};

struct Context {
  const Plan* plan = nullptr;
  uint32_t index = 0;  // of the present step
  uint32_t action = 0;

  UniqueFd sync;
  // Inner stage: the outer stage's word that Cloned has been sent (and the id maps written). Closed
  // when heard.
  UniqueFd go;
  bool cloned = false;        // this is the inner stage
  bool has_clone = false;     // the plan has one
  bool fresh_userns = false;  // Clone made a user namespace

  std::vector<Slot> slots;
  std::vector<NamespaceFile> namespace_files;
  std::vector<MappedNamespace> mapped_namespaces;

  // Opened by EnterRoot, "/" after PivotRoot.
  UniqueFd root;
  std::string root_path;
  bool pivoted = false;
  bool joined_mount_namespace = false;

  UniqueFd network;       // a network namespace that was made ahead (spare.h), for Clone
  UniqueFd birth_cgroup;  // cgroup v2 directory that Clone makes its child in (outer stage)

  UniqueFd host_proc;  // the host's /proc (outer stage)
  UniqueFd procfs;     // a private, fresh or verified one (inner stage)
  UniqueFd null_device;
  UniqueFd empty_directory;

  std::string executable;
  std::string home;  // "HOME=…" for Exec, empty when the plan has one
  mode_t inherited_umask = 022;
  bool death_signal_set = false;  // by a step of the plan
  // RLIMIT_NOFILE takes effect with prepare_exec: it would count our own descriptors before.
  std::optional<rlimit64> open_files;

  // Made by prepare_exec.
  bool prepared = false;
  std::vector<char*> arguments, environment;
  // A system call filter is in place.
  bool filtered = false;

  Slot& slot(SlotId id);
};

// ---- the launcher

// Waits until the outer stage has reported; leaves quietly when it died. Every report calls it.
void await_outer(Context& context);
void report(Context& context, std::string_view message, int fd = -1);
// From now on the kernel ends this process with its launcher (a step may hang, and nobody else
// knows of it before it is in a cgroup); leaves at once when the launcher is gone already. Lasts
// until ids or user namespace change (prctl(2)), by when it is in the container's cgroups.
void die_with_launcher(const Context& context);
// The process may outlive its launcher.
void outlive_launcher(const Context& context);
void report_warning(Context& context, int err, std::string_view path);
// Waits for ToInit; leaves quietly on proceed = false and when the launcher is gone. `received`:
// the descriptors that ride along, in their order (at most kMaxToInitDescriptors).
ToInit await_answer(int sync, std::span<UniqueFd> received);
// The same at a gate: a descriptor becomes stdin.
void await_proceed(Context& context);

// ---- steps_exec.cc

// All that is left to do before execve: descriptors, session, umask, open file limit, argument
// lists. Done by Exec, or by a Seccomp just before it, because the filter may refuse any system
// call but execve. `keep`: a descriptor that has to stay for now; gets its new number. Invalidates
// all other descriptors of the context but sync.
Outcome prepare_exec(Context& context, const Exec& step, int* keep = nullptr);

}  // namespace bulkhead
