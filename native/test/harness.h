// Runs launch plans as a launcher does, and makes small root file systems for them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/launch.h"
#include "test/plan_writer_codec.h"

namespace bulkhead::test {

// A directory below /tmp, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// With busybox, its applets as links, and the usual directories.
class Rootfs : public TempDir {
 public:
  Rootfs();
};

void write_text(const std::string& path, std::string_view value, int mode = 0644);
std::string read_text(const std::string& path);
bool exists(const std::string& path);

struct Run {
  bool launched = false;
  bool failed = false;
  StepFailure failure;
  std::vector<std::string> paused;
  std::vector<StepFailure> warnings;
  UniqueFd console;
  pid_t pid = 0;         // of the inner stage, or of the only one
  int wait_status = -1;  // of the same
  int outer_status = -1;
  bool timed_out = false;
  std::string out;  // stdout and stderr

  int exit_code() const { return (wait_status >> 8) & 0xff; }
};

struct RunOptions {
  // Called at a gate with its name and the process; false abandons it.
  std::function<bool(const std::string& point, pid_t pid)> at_gate;
  std::vector<int> extra_fds;
  std::string stdin_text;
  bool copy_of_init = false;  // the sealed copy instead of the overlay
  // Started before the plan is known (launch_spare).
  enum class Spare { kNo, kPlain, kWithNetwork } spare = Spare::kNo;
  std::function<void(const LaunchedOuter&)> before_plan;  // sees the spare
  int limit_ms = 120000;
};

Run run_bytes(std::string_view plan, const RunOptions& options = {});
Run run_steps(std::vector<StepBody> steps, const RunOptions& options = {});

// The steps of an ordinary container in `root` that runs /bin/sh -c script, with every namespace
// but the user's. `inner` is put before PivotRoot, `late` after it.
struct ContainerSteps {
  uint64_t namespaces = 0;  // 0: NEWNS NEWPID NEWIPC NEWUTS NEWNET
  std::vector<IdMap> uid_maps, gid_maps;
  std::vector<StepBody> outer, inner, late;
  bool with_dev = true;
  bool with_proc = true;
};
std::vector<StepBody> container(const std::string& root, std::string_view script,
                                ContainerSteps more = {});
// Exec of /bin/sh -c script.
StepBody shell(std::string_view script);
Run run_container(const std::string& root, std::string_view script, ContainerSteps more = {},
                  const RunOptions& options = {});

int init_fd();

}  // namespace bulkhead::test
