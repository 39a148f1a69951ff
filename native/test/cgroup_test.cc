// Control groups, in directories of the test's own.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <ctime>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

// A name below a mounted hierarchy; the directories are removed at the end.
class CgroupDir {
 public:
  CgroupDir(const std::string& mount, const std::string& child) {
    top_ = mount + "/bh-test-" + std::to_string(::getpid()) + "-" + std::to_string(counter_++);
    path_ = child.empty() ? top_ : top_ + "/" + child;
  }
  ~CgroupDir() {
    for (std::string path = path_; path.size() >= top_.size(); path.resize(path.rfind('/'))) {
      for (int attempt = 0; attempt < 2000 && ::rmdir(path.c_str()) < 0 && errno == EBUSY;
           attempt++)
        ::usleep(2000);
    }
  }
  const std::string& path() const { return path_; }

 private:
  static inline int counter_ = 0;
  std::string top_, path_;
};

// Disables hugetlb in the machine's root cgroup again if a test enabled it; declared before the
// directories, whose removal comes first. Refused (EBUSY) while others use it.
class RestoredController {
 public:
  ~RestoredController() {
    if (before_.find("hugetlb") != std::string::npos) return;
    UniqueFd fd(::open(kFile, O_WRONLY | O_CLOEXEC));
    (void)!::write(fd.get(), "-hugetlb", 8);
  }

 private:
  static constexpr const char* kFile = "/sys/fs/cgroup/unified/cgroup.subtree_control";
  std::string before_ = read_text(kFile);
};

MakeCgroup make(const std::string& path) {
  MakeCgroup step;
  step.path = text(path);
  return step;
}

}  // namespace

TEST(cgroups_are_made_limited_and_joined) {
  CgroupDir pids("/sys/fs/cgroup/pids", "pod/app");
  WriteFile limit;
  limit.path = text(pids.path() + "/pids.max");
  limit.data = bytes("17");
  JoinCgroup join{text(pids.path())};
  Run run = run_steps(
      {make(pids.path()), make(pids.path()), limit, join, shell("cat /proc/self/cgroup")});
  CHECK_EQ(run.failure.detail, "");
  std::string name = pids.path().substr(std::string("/sys/fs/cgroup/pids").size());
  CHECK(run.out.find(":pids:" + name + "\n") != std::string::npos);
  CHECK_EQ(read_text(pids.path() + "/pids.max"), "17\n");
}

TEST(cpuset_is_inherited_at_every_level) {
  CgroupDir cpuset("/sys/fs/cgroup/cpuset", "a/b");
  MakeCgroup step = make(cpuset.path());
  step.inherit_cpuset = true;
  Run run = run_steps({step, JoinCgroup{text(cpuset.path())}, shell("true")});
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.exit_code(), 0);
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    std::string want = read_text(std::string("/sys/fs/cgroup/cpuset") + file);
    CHECK(want.size() > 1);
    CHECK_EQ(read_text(cpuset.path() + file), want);
    CHECK_EQ(read_text(cpuset.path() + "/.." + file), want);
  }
  // Without it the kernel does not let anybody in.
  CgroupDir empty("/sys/fs/cgroup/cpuset", "");
  run = run_steps({make(empty.path()), JoinCgroup{text(empty.path())}, shell("true")});
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, ENOSPC);
  CHECK_EQ(run.failure.path, empty.path());
}

TEST(controllers_are_enabled_along_the_way) {
  RestoredController restored;
  CgroupDir unified("/sys/fs/cgroup/unified", "a/b");
  MakeCgroup step = make(unified.path());
  step.enable_controllers = texts({"+hugetlb", "+nosuchcontroller"});
  Run run = run_steps({step, shell("true")});
  CHECK_EQ(run.failure.detail, "");
  CHECK(read_text(unified.path() + "/cgroup.controllers").find("hugetlb") != std::string::npos);
  CHECK(read_text(unified.path() + "/cgroup.subtree_control").find("hugetlb") == std::string::npos);
}

TEST(failed_writes_are_reported_or_passed_over) {
  TempDir files;
  WriteFile write;
  write.path = text(files / "missing/file");
  write.data = bytes("x");
  Run run = run_steps({write, shell("true")});
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.path, files / "missing/file");
  CHECK_EQ(run.failure.index, 0u);
  write.ignore_errno = {EPERM, ENOENT};
  run = run_steps({write, shell("echo ok")});
  CHECK_EQ(run.out, "ok\n");
}

TEST(device_program_is_attached) {
  CgroupDir unified("/sys/fs/cgroup/unified", "");
  // r0 = 1; exit: everything is allowed.
  AttachDeviceProgram attach;
  attach.cgroup = text(unified.path());
  attach.instructions = bytes(std::string_view("\xb7\0\0\0\1\0\0\0\x95\0\0\0\0\0\0\0", 16));
  Run run = run_steps({make(unified.path()), attach, shell("true")});
  CHECK_EQ(run.failure.detail, "");
  attach.instructions = bytes("123");
  run = run_steps({attach, shell("true")});
  CHECK_EQ(run.failure.err, EINVAL);
  CHECK_EQ(run.failure.detail, "attach-program");
}

}  // namespace bulkhead::test
