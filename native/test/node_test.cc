// Directories, device nodes and symlinks beneath the root.
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

Mknod node(std::string_view target, NodeType type, uint32_t major_number, uint32_t minor_number,
           uint32_t mode) {
  Mknod step;
  step.target = text(target);
  step.type = type;
  step.major = major_number;
  step.minor = minor_number;
  step.mode = mode;
  return step;
}

}  // namespace

TEST(directories_are_made_with_mode_and_owner) {
  Rootfs root;
  ContainerSteps more;
  more.inner = {Mkdir{text("/a/b/c"), 01777, 10, 20}, Mkdir{text("/bin"), 0700, 5, 5}};
  Run run = run_container(root.path(), "stat -c '%a %u %g' /a /a/b /a/b/c /bin", more);
  CHECK(!run.failed);
  CHECK_EQ(run.out, "1777 0 0\n1777 0 0\n1777 10 20\n755 0 0\n");
}

TEST(setgid_parent_passes_its_group_on) {
  Rootfs root;
  ::chown((root / "data").c_str(), 0, 77);
  ::chmod((root / "data").c_str(), 02755);
  ContainerSteps more;
  more.inner = {Mkdir{text("/data/x/y"), 0755, 0, 0}};
  Run run = run_container(root.path(), "stat -c '%a %g' /data/x /data/x/y", more);
  CHECK_EQ(run.out, "2755 77\n2755 77\n");
}

TEST(device_nodes_have_number_mode_and_owner) {
  Rootfs root;
  ContainerSteps more;
  Mknod block = node("/dev/sub/blk", NodeType::kBlock, 7, 99, 0640);
  block.uid = 3;
  block.gid = 4;
  more.inner = {node("/dev/zero", NodeType::kChar, 1, 5, 0666), block,
                node("/dev/pipe", NodeType::kFifo, 0, 0, 0600)};
  Run run = run_container(root.path(),
                          "stat -c '%F %t:%T %a %u %g' /dev/zero /dev/sub/blk /dev/pipe", more);
  CHECK_EQ(
      run.out,
      "character special file 1:5 666 0 0\nblock special file 7:63 640 3 4\nfifo 0:0 600 0 0\n");
}

TEST(node_that_is_there_must_be_the_same) {
  Rootfs root;
  ::mknod((root / "dev/zero").c_str(), S_IFCHR | 0666, makedev(1, 5));
  ContainerSteps more;
  more.with_dev = false;
  more.inner = {node("/dev/zero", NodeType::kChar, 1, 5, 0666)};
  CHECK(!run_container(root.path(), "true", more).failed);
  more.inner = {node("/dev/zero", NodeType::kChar, 1, 7, 0666)};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "another-node");
  CHECK_EQ(run.failure.path, "/dev/zero");
  // A symlink in its place is not followed.
  ::unlink((root / "dev/zero").c_str());
  ::symlink("/dev/zero", (root / "dev/zero").c_str());
  more.inner = {node("/dev/zero", NodeType::kChar, 1, 5, 0666)};
  run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "another-node");
}

TEST(dev_as_symlink_stays_inside) {
  Rootfs root;
  TempDir outside;
  ::rmdir((root / "dev").c_str());
  ::symlink(outside.path().c_str(), (root / "dev").c_str());
  ContainerSteps more;
  more.with_dev = false;
  more.inner = {node("/dev/zero", NodeType::kChar, 1, 5, 0666)};
  // CVE-2026-41579. Inside the root the link is dangling.
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK(!exists(outside / "zero"));
}

TEST(symlinks_are_made_and_optional_ones_passed_over) {
  Rootfs root;
  ContainerSteps more;
  more.inner = {Symlink{text("/dev/fd"), text("/proc/self/fd"), false},
                Symlink{text("/dev/fd"), text("/other"), true}};
  Run run = run_container(root.path(), "readlink /dev/fd", more);
  CHECK_EQ(run.out, "/proc/self/fd\n");
  more.inner[1] = Symlink{text("/dev/fd"), text("/other"), false};
  run = run_container(root.path(), "readlink /dev/fd", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EEXIST);
}

}  // namespace bulkhead::test
