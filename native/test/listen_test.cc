// A socket that is there before its helper runs, and a process that Landlock keeps in its root.
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

Listen listen_at(const std::string& path, uint32_t index = 0) {
  Listen step;
  step.path = text(path);
  step.index = index;
  return step;
}

}  // namespace

TEST(listen_hands_over_a_socket_that_listens) {
  TempDir files;
  std::string path = files / "socket";
  // What a former one left is no obstacle.
  write_text(path, "left over");
  Exec exec;
  exec.file = text("/bin/sh");
  exec.args = {text("sh"), text("-c"),
               text("readlink /proc/self/fd/3; grep -c ' 00010000 .*" + path + "' /proc/net/unix")};
  exec.preserve_fds = 1;
  Run run = run_steps({listen_at(path), exec});
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out.substr(0, 8), "socket:[");
  CHECK(run.out.ends_with("]\n1\n"));
  struct stat file {};
  REQUIRE(::lstat(path.c_str(), &file) == 0);
  CHECK(S_ISSOCK(file.st_mode));
  CHECK_EQ(file.st_mode & 0777, 0600u);
}

TEST(listen_says_what_is_in_its_way) {
  TempDir files;
  Run run = run_steps({listen_at(files / "none/socket"), shell("true")});
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.detail, "bind");
  run = run_steps({listen_at(files / std::string(200, 'x')), shell("true")});
  CHECK_EQ(run.failure.err, ENAMETOOLONG);
  run = run_steps({listen_at(files / "a"), listen_at(files / "b"), shell("true")});
  CHECK_EQ(run.failure.err, EBUSY);
  CHECK_EQ(run.failure.detail, "descriptor");
  ::mkdir((files / "directory").c_str(), 0755);
  run = run_steps({listen_at(files / "directory"), shell("true")});
  CHECK_EQ(run.failure.err, EISDIR);
  CHECK_EQ(run.failure.detail, "unlink");
}

TEST(landlock_keeps_a_leaked_directory_shut) {
  long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  Rootfs root;
  TempDir outside;
  write_text(outside / "secret", "secret");
  UniqueFd leak(::open(outside.path().c_str(), O_RDONLY | O_DIRECTORY));
  RunOptions options;
  options.extra_fds = {leak.get()};
  const char* script = "cat /proc/self/fd/3/secret 2>&1; echo own > /tmp/file; cat /tmp/file";
  for (bool confined : {false, true}) {
    if (confined && abi < 0) break;
    ContainerSteps more;
    Landlock landlock;
    if (confined) more.late = {landlock};
    auto steps = container(root.path(), script, more);
    Exec exec;
    exec.file = text("/bin/sh");
    exec.args = {text("sh"), text("-c"), text(script)};
    exec.preserve_fds = 1;
    steps.back() = exec;
    Run run = run_steps(steps, options);
    CHECK_EQ(run.failure.detail, "");
    CHECK(run.out.ends_with("own\n"));
    CHECK_EQ(run.out.find("secret") == 0, !confined);
    CHECK_EQ(run.out.find("Permission denied") != std::string::npos, confined);
  }
}

}  // namespace bulkhead::test
