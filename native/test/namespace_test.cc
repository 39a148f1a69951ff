// Namespaces: made, mapped, joined.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

constexpr uint64_t kAll = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;

std::string link_of(const std::string& path) {
  char value[256];
  ssize_t size = ::readlink(path.c_str(), value, sizeof value);
  return std::string(value, size > 0 ? static_cast<size_t>(size) : 0);
}

// A container that waits at a gate while `visit` runs with its pid.
Run while_running(const std::string& root, std::function<void(pid_t)> visit,
                  ContainerSteps more = {}) {
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  RunOptions options;
  options.at_gate = [&](const std::string&, pid_t pid) {
    visit(pid);
    return true;
  };
  return run_container(root, "true", more, options);
}

}  // namespace

TEST(user_namespace_maps_ids) {
  Rootfs root;
  // The mapped root must own what it changes.
  std::string command = "chown -R 100000:100000 " + root.path();
  CHECK_EQ(std::system(command.c_str()), 0);
  ContainerSteps more;
  more.namespaces = kAll | CLONE_NEWUSER;
  more.uid_maps = {{0, 100000, 65536}};
  more.gid_maps = {{0, 100000, 65536}};
  more.with_dev = false;
  OpenTree null_node;
  null_node.slot = {7};
  null_node.path = text("/dev/null");
  more.outer = {null_node};
  Mknod bound;
  bound.target = text("/dev/null");
  bound.bind_slot = {7};
  more.inner = {bound};
  more.late = {OomScoreAdj{{5}, false}, Sysctl{text("net/ipv4/ip_forward"), text("1")},
               LoopbackUp{}};
  Run run = run_container(
      root.path(),
      "id -u; id -g; cat /proc/self/uid_map; cat /proc/self/oom_score_adj; "
      "cat /proc/sys/net/ipv4/ip_forward; stat -c '%t:%T' /dev/null; touch /made; stat -c %u /made",
      more);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "0\n0\n         0     100000      65536\n5\n1\n1:3\n0\n");
  struct stat info;
  ::stat((root / "made").c_str(), &info);
  CHECK_EQ(info.st_uid, 100000u);
}

TEST(bad_id_map_names_the_clone_step) {
  Rootfs root;
  ContainerSteps more;
  more.namespaces = kAll | CLONE_NEWUSER;
  more.uid_maps = {{0, 100000, 10}, {5, 200000, 10}};
  more.gid_maps = {{0, 100000, 10}};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.action, Clone::kAction);
  CHECK_EQ(run.failure.detail, "uid-map");
  CHECK_EQ(run.failure.err, EINVAL);
  // The waiting process has been announced, so that it could be reaped, and has left.
  CHECK(run.pid != 0);
  CHECK_EQ(run.exit_code(), 1);
}

TEST(setgroups_is_denied_on_request) {
  Rootfs root;
  auto steps = container(root.path(), "cat /proc/self/setgroups");
  for (auto& step : steps) {
    if (auto* clone = std::get_if<Clone>(&step)) {
      clone->namespaces |= CLONE_NEWUSER;
      clone->uid_maps = {{0, 0, 1}};
      clone->gid_maps = {{0, 0, 1}};
      clone->deny_setgroups = true;
    }
  }
  // No nodes in a user namespace.
  std::erase_if(steps, [](const StepBody& step) { return std::holds_alternative<Mknod>(step); });
  Run run = run_steps(steps);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "deny\n");
}

TEST(namespaces_of_a_process_are_joined_at_once) {
  Rootfs root;
  Run first = while_running(root.path(), [&](pid_t pid) {
    JoinNamespace join;
    join.pid = static_cast<uint32_t>(pid);
    join.types = kAll;
    auto started = process_start_time(pid);
    CHECK(started.ok());
    join.pid_start_time = started.value();
    Clone clone;
    Chdir chdir;
    chdir.path = text("/");
    Run exec = run_steps(
        {join, clone, chdir, shell("echo $$ $(readlink /proc/1/ns/net); ls -d /bin /data")});
    CHECK(!exec.failed);
    CHECK_EQ(exec.failure.detail, "");
    CHECK_EQ(exec.out,
             "2 " + link_of("/proc/" + std::to_string(pid) + "/ns/net") + "\n/bin\n/data\n");
    join.pid_start_time++;
    exec = run_steps({join, clone, shell("true")});
    CHECK(exec.failed);
    CHECK_EQ(exec.failure.err, ESRCH);
    CHECK_EQ(exec.failure.detail, "pid-reused");
  });
  CHECK_EQ(first.exit_code(), 0);
}

TEST(namespaces_are_joined_by_path_even_after_the_mount_namespace) {
  Rootfs root;
  Run first = while_running(root.path(), [&](pid_t pid) {
    std::string base = "/proc/" + std::to_string(pid) + "/ns/";
    std::vector<StepBody> steps;
    // With the mount namespace first, the later names would mean something else.
    struct {
      const char* name;
      uint64_t type;
    } order[] = {
        {"mnt", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS}};
    for (const auto& entry : order) {
      JoinNamespace join;
      join.path = text(base + entry.name);
      join.types = entry.type;
      steps.push_back(join);
    }
    steps.push_back(Clone{});
    steps.push_back(shell("readlink /proc/self/ns/net; readlink /proc/self/ns/uts"));
    Run exec = run_steps(steps);
    CHECK_EQ(exec.failure.detail, "");
    CHECK_EQ(exec.out, link_of(base + "net") + "\n" + link_of(base + "uts") + "\n");
  });
  CHECK_EQ(first.exit_code(), 0);
}

TEST(user_namespace_is_joined_as_its_root) {
  Rootfs root;
  std::string command = "chown -R 100000:100000 " + root.path();
  CHECK_EQ(std::system(command.c_str()), 0);
  ContainerSteps more;
  more.namespaces = kAll | CLONE_NEWUSER;
  more.uid_maps = {{0, 100000, 65536}};
  more.gid_maps = {{0, 100000, 65536}};
  more.with_dev = false;
  Run first = while_running(
      root.path(),
      [&](pid_t pid) {
        JoinNamespace join;
        join.pid = static_cast<uint32_t>(pid);
        join.types = kAll | CLONE_NEWUSER;
        User user;
        user.uid = 1;
        user.gid = 2;
        user.additional_gids = {3};
        Run exec = run_steps({join, Clone{}, user, shell("id -u; id -g; id -G")});
        CHECK_EQ(exec.failure.detail, "");
        CHECK_EQ(exec.out, "1\n2\n2 3\n");
      },
      more);
  CHECK_EQ(first.failure.detail, "");
  CHECK_EQ(first.exit_code(), 0);
}

TEST(joining_fails_with_the_path) {
  JoinNamespace join;
  join.path = text("/proc/self/ns/nothing");
  join.types = CLONE_NEWNET;
  Run run = run_steps({Umask{022}, join, shell("true")});
  CHECK(run.failed);
  CHECK_EQ(run.failure.index, 1u);
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.path, "/proc/self/ns/nothing");
  join.path = text("/proc/self/ns/uts");
  run = run_steps({join, shell("true")});
  CHECK_EQ(run.failure.err, EINVAL);
  CHECK_EQ(run.failure.detail, "setns");
}

TEST(time_namespace_takes_its_offsets) {
  Rootfs root;
  ContainerSteps more;
  WriteFile offsets;
  offsets.path = text("/proc/self/timens_offsets");
  offsets.data = bytes("monotonic 864000 0\nboottime 864000 0\n");
  more.outer = {Unshare{CLONE_NEWTIME}, offsets};
  Run run = run_container(root.path(), "cat /proc/uptime", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK(std::atof(run.out.c_str()) > 864000);
}

TEST(second_clone_is_refused) {
  Run run = run_steps({Clone{}, Clone{}, shell("true")});
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "second-clone");
  CHECK_EQ(run.failure.index, 1u);
}

TEST(names_and_sysctls_of_the_namespace) {
  Rootfs root;
  ContainerSteps more;
  more.late = {Hostname{text("bulk")}, Domainname{text("head.example")},
               Sysctl{text("net/ipv4/ip_forward"), text("1")}, LoopbackUp{}};
  Run run =
      run_container(root.path(),
                    "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward; "
                    "cat /sys/class/net/lo/operstate 2>/dev/null; grep -c lo: /proc/net/dev",
                    more);
  CHECK_EQ(run.out, "bulk\nhead.example\n1\n1\n");
  more.late = {Sysctl{text("net/nothing"), text("1")}};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.path, "net/nothing");
  more.late = {Sysctl{text("../self/oom_score_adj/../../sys/kernel/domainname"), text("1")}};
  run = run_container(root.path(), "true", more);
  CHECK(run.failed);
}

TEST(faked_proc_does_not_receive_sysctls) {
  // CVE-2025-52881: the image's /proc is a tmpfs with a file where the sysctl would be.
  Rootfs root;
  ::mkdir((root / "proc/sys").c_str(), 0755);
  ::mkdir((root / "proc/sys/kernel").c_str(), 0755);
  write_text(root / "proc/sys/kernel/domainname", "fake");
  ContainerSteps more;
  more.with_proc = false;
  more.late = {Sysctl{text("kernel/domainname"), text("real")}};
  Run run = run_container(root.path(), "cat /proc/sys/kernel/domainname", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "fake");
}

}  // namespace bulkhead::test
