// Finding and executing the program, and what is said when that fails.
#include <cerrno>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

Run run_file(const std::string& root, std::string_view file) {
  auto steps = container(root, "");
  Exec exec;
  exec.file = text(file);
  exec.args = texts({file});
  steps.back() = exec;
  return run_steps(steps);
}

Run find(const std::string& root, std::string_view file, std::string_view path,
         std::string_view cwd = "/") {
  auto steps = container(root, "");
  FindExecutable find_step;
  find_step.file = text(file);
  find_step.path = text(path);
  find_step.cwd = text(cwd);
  Exec exec;
  exec.args = texts({"found", "-c", "echo found $0"});
  steps.back() = find_step;
  steps.push_back(exec);
  return run_steps(steps);
}

}  // namespace

TEST(exec_errors_are_told_apart) {
  Rootfs root;
  write_text(root / "bin/garbage", "\x01\x02\x03 not a program", 0755);
  write_text(root / "bin/noexec", "#!/bin/sh\n", 0644);
  write_text(root / "bin/lost", "#!/bin/nowhere\n", 0755);
  struct {
    const char* file;
    int err;
    const char* detail;
  } cases[] = {{"/bin/missing", ENOENT, "exec"},
               {"/bin/garbage", ENOEXEC, "exec"},
               {"/bin/noexec", EACCES, "exec"},
               {"/bin/lost", ENOENT, "interpreter"},
               {"/bin", EACCES, "exec"}};
  for (const auto& expected : cases) {
    Run run = run_file(root.path(), expected.file);
    CHECK(run.failed);
    CHECK_EQ(run.failure.action, Exec::kAction);
    CHECK_EQ(run.failure.err, expected.err);
    CHECK_EQ(run.failure.detail, expected.detail);
    CHECK_EQ(run.failure.path, expected.file);
    CHECK_EQ(run.exit_code(), 1);
  }
}

TEST(executable_is_found_along_path) {
  Rootfs root;
  Run run = find(root.path(), "sh", "/sbin:/usr/bin:/bin");
  CHECK(!run.failed);
  // busybox looks at its own name only.
  CHECK(run.out.find("applet not found") != std::string::npos ||
        run.out.find("found") != std::string::npos);
}

TEST(executable_that_is_not_found_fails_before_exec) {
  Rootfs root;
  write_text(root / "data/tool", "#!/bin/sh\n", 0644);
  Run run = find(root.path(), "tool", "/bin:/data");
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EACCES);
  CHECK_EQ(run.failure.action, FindExecutable::kAction);
  run = find(root.path(), "nothing", "/bin:/data");
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.detail, "not-in-path");
  CHECK_EQ(run.failure.path, "nothing");
  run = find(root.path(), "nothing", "");
  CHECK_EQ(run.failure.err, ENOENT);
  run = find(root.path(), "/data", "/bin");
  CHECK_EQ(run.failure.err, EACCES);
  run = find(root.path(), "", "/bin");
  CHECK_EQ(run.failure.err, ENOENT);
}

TEST(relative_executable_counts_from_the_working_directory) {
  Rootfs root;
  write_text(root / "data/tool", "#!/bin/sh\necho tool $0\n", 0755);
  Run run = find(root.path(), "./tool", "/bin", "/data");
  CHECK(!run.failed);
  CHECK_EQ(run.out, "tool /data/./tool\n");
  run = find(root.path(), "tool", ":/bin", "/data");
  CHECK_EQ(run.out, "tool /data/tool\n");
}

TEST(plan_without_exec_fails) {
  Run run = run_steps({Umask{022}});
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "no-exec");
}

TEST(arguments_and_environment_arrive_as_they_are) {
  Rootfs root;
  auto steps = container(root.path(), "");
  Exec exec;
  exec.file = text("/bin/sh");
  exec.args = texts({"sh", "-c", "echo \"$0|$1|$2|$A\"; echo \"$B\"", "zero", "", "two  spaces"});
  exec.env = texts({"A=\xc3\xa4 = b", "B="});
  steps.back() = exec;
  Run run = run_steps(steps);
  CHECK_EQ(run.out, "zero||two  spaces|\xc3\xa4 = b\n\n");
}

TEST(sockets_and_files_are_left_as_descriptors) {
  TempDir dir;
  write_text(dir / "file", "from the file");
  Exec exec;
  exec.file = text("/bin/sh");
  exec.args = texts({"sh", "-c", "cat <&4; ls -l /proc/self/fd/3"});
  exec.preserve_fds = 2;
  OpenFile file;
  file.path = text(dir / "file");
  file.descriptor = 4;
  Run run = run_steps({Listen{text(dir / "socket"), 0}, file, exec});
  CHECK(!run.failed);
  CHECK_EQ(run.exit_code(), 0);
  CHECK(run.out.find("from the file") != std::string::npos);
  CHECK(run.out.find("socket:") != std::string::npos);
}

TEST(descriptors_that_cannot_be_left_are_refused) {
  TempDir dir;
  write_text(dir / "file", "x");
  struct {
    uint32_t descriptor;
    int err;
    const char* detail;
  } cases[] = {{0, EINVAL, "no-slot"}, {2, EINVAL, "descriptor"}, {3 + 512, EINVAL, "descriptor"}};
  for (const auto& expected : cases) {
    OpenFile file;
    file.path = text(dir / "file");
    file.descriptor = expected.descriptor;
    Run run = run_steps({file, shell("true")});
    CHECK(run.failed);
    CHECK_EQ(run.failure.action, OpenFile::kAction);
    CHECK_EQ(run.failure.err, expected.err);
    CHECK_EQ(run.failure.detail, expected.detail);
  }
  OpenFile file;
  file.path = text(dir / "file");
  file.descriptor = 3;
  Run run = run_steps({file, file, shell("true")});
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EBUSY);
}

}  // namespace bulkhead::test
