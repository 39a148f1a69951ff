// Whole containers: from launch to exit status.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

TEST(container_runs_and_exit_code_arrives) {
  Rootfs root;
  Run run = run_container(root.path(), "echo hello; echo pid $$; exit 7");
  CHECK(run.launched);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "hello\npid 1\n");
  CHECK_EQ(run.exit_code(), 7);
  CHECK_EQ(run.outer_status, 0);
}

TEST(container_runs_from_the_sealed_copy) {
  Rootfs root;
  RunOptions options;
  options.copy_of_init = true;
  Run run = run_container(root.path(), "echo hello", {}, options);
  CHECK_EQ(run.out, "hello\n");
  CHECK_EQ(run.exit_code(), 0);
}

TEST(container_sees_its_stdin) {
  Rootfs root;
  RunOptions options;
  options.stdin_text = "one\ntwo\n";
  Run run = run_container(root.path(), "cat", {}, options);
  CHECK_EQ(run.out, "one\ntwo\n");
}

TEST(death_by_signal_is_reported) {
  Rootfs root;
  // Not as pid 1, which ignores its own signals.
  ContainerSteps more;
  more.namespaces = CLONE_NEWNS;
  Run run = run_container(root.path(), "kill -9 $$", more);
  CHECK_EQ(run.wait_status & 0x7f, SIGKILL);
}

TEST(plan_without_clone_stays_one_process) {
  Run run = run_steps({shell("echo $$; exit 3")});
  CHECK(!run.failed);
  CHECK_EQ(run.out, std::to_string(run.pid) + "\n");
  CHECK_EQ(run.exit_code(), 3);
}

TEST(container_has_only_the_listed_descriptors) {
  Rootfs root;
  // A descriptor without O_CLOEXEC in the launcher must not get through either.
  UniqueFd leak(::open("/etc/passwd", O_RDONLY));
  Run run = run_container(root.path(), "ls /proc/self/fd");
  // The fourth is the directory that ls itself reads.
  CHECK_EQ(run.out, "0\n1\n2\n3\n");
}

TEST(extra_descriptors_become_three_and_up) {
  Rootfs root;
  TempDir files;
  write_text(files / "a", "file a");
  write_text(files / "b", "file b");
  UniqueFd a(::open((files / "a").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd b(::open((files / "b").c_str(), O_RDONLY | O_CLOEXEC));
  RunOptions options;
  options.extra_fds = {a.get(), b.get()};
  auto steps = container(root.path(), "cat <&3; cat <&4; ls /proc/self/fd");
  std::get<Exec>(steps.back()).preserve_fds = 2;
  Run run = run_steps(steps, options);
  CHECK_EQ(run.out, "file afile b0\n1\n2\n3\n4\n5\n");
}

TEST(descriptors_that_were_not_given_stay_closed) {
  Rootfs root;
  auto steps = container(root.path(), "ls /proc/self/fd");
  std::get<Exec>(steps.back()).preserve_fds = 5;
  Run run = run_steps(steps);
  CHECK_EQ(run.out, "0\n1\n2\n3\n");
}

TEST(helper_binary_is_not_writable_through_proc) {
  Rootfs root;
  std::string opened = "unset";
  std::string executable;
  RunOptions options;
  options.at_gate = [&](const std::string&, pid_t pid) {
    std::string exe = "/proc/" + std::to_string(pid) + "/exe";
    UniqueFd fd(::open(exe.c_str(), O_WRONLY | O_CLOEXEC));
    opened = fd ? "writable" : "refused";
    char text[256];
    ssize_t size = ::readlink(exe.c_str(), text, sizeof text);
    if (size > 0) executable.assign(text, static_cast<size_t>(size));
    return true;
  };
  ContainerSteps more;
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  for (bool copy : {false, true}) {
    options.copy_of_init = copy;
    opened = "unset";
    Run run = run_container(root.path(), "true", more, options);
    CHECK_EQ(opened, "refused");
    CHECK(executable.find("bulkhead-init") != std::string::npos);
    CHECK_EQ(run.exit_code(), 0);
  }
}

TEST(umask_is_the_launchers_or_the_plans) {
  Rootfs root;
  mode_t before = ::umask(027);
  Run run = run_container(root.path(), "umask");
  ::umask(before);
  CHECK_EQ(run.out, "0027\n");
  ContainerSteps more;
  more.late.push_back(Umask{0077});
  run = run_container(root.path(), "umask", more);
  CHECK_EQ(run.out, "0077\n");
}

TEST(open_file_limit_spares_the_set_up) {
  Rootfs root;
  ContainerSteps more;
  more.late.push_back(Rlimit{RLIMIT_NOFILE, 4, 4});
  Run run = run_container(root.path(), "ulimit -n; ulimit -Hn", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "4\n4\n");
}

TEST(ignored_signals_are_reset) {
  Rootfs root;
  ::signal(SIGPIPE, SIG_IGN);
  auto steps = container(root.path(), "");
  Exec exec;
  exec.file = text("/bin/grep");
  exec.args = texts({"grep", "-E", "SigIgn|SigBlk", "/proc/self/status"});
  steps.back() = exec;
  Run run = run_steps(steps);
  ::signal(SIGPIPE, SIG_DFL);
  CHECK_EQ(run.out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(gates_are_passed_in_order) {
  Rootfs root;
  ContainerSteps more;
  Gate first, second;
  first.point = text("createRuntime");
  second.point = text("start");
  more.inner.push_back(first);
  more.late.push_back(second);
  Run run = run_container(root.path(), "echo ran", more);
  REQUIRE(run.paused.size() == 2);
  CHECK_EQ(run.paused[0], "createRuntime");
  CHECK_EQ(run.paused[1], "start");
  CHECK_EQ(run.out, "ran\n");
}

TEST(abandoned_at_a_gate_it_leaves_quietly) {
  Rootfs root;
  RunOptions options;
  options.at_gate = [](const std::string&, pid_t) { return false; };
  ContainerSteps more;
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  Run run = run_container(root.path(), "echo ran", more, options);
  CHECK(!run.failed);
  CHECK_EQ(run.out, "");
  CHECK_EQ(run.wait_status, 0);
}

TEST(launcher_that_dies_ends_a_waiting_container) {
  Rootfs root;
  ContainerSteps more;
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  PlanText plan;
  plan.steps = container(root.path(), "true", more);
  std::string encoded = encode_plan(plan);
  LaunchArgs args;
  args.init_fd = init_fd();
  args.plan = {reinterpret_cast<const uint8_t*>(encoded.data()), encoded.size()};
  auto launched = launch(args);
  REQUIRE(launched.ok());
  pid_t pid = 0;
  for (;;) {
    auto event = read_init_event(launched->sync.get());
    REQUIRE(event.ok());
    if (event->kind == InitEvent::Kind::kCloned) pid = event->pid;
    if (event->kind == InitEvent::Kind::kPaused) break;
    REQUIRE(event->kind == InitEvent::Kind::kCloned);
  }
  auto pidfd = pidfd_open(pid);
  REQUIRE(pidfd.ok());
  launched->sync.reset();
  (void)wait_pidfd(launched->pidfd.get(), true);
  auto status = wait_pidfd(pidfd->get(), true);
  REQUIRE(status.ok());
  CHECK_EQ(status->wait_status, 0);
}

TEST(failure_behind_any_step_leaves_nothing) {
  Rootfs root;
  TempDir host;
  ContainerSteps more;
  OpenTree tree;
  tree.slot = {1};
  tree.path = text(host.path());
  more.outer = {tree};
  Attach attach;
  attach.slot = {1};
  attach.target = text("/mnt");
  attach.make = TargetKind::kDirectory;
  more.inner = {attach};
  more.late = {MaskPath{text("/proc/kcore")}, Terminal{}, NoNewPrivs{}, User{1, 1, {}, false}};
  auto steps = container(root.path(), "true", more);
  auto count = [](const char* directory) {
    std::string command = std::string("ls ") + directory + " | wc -l > /tmp/bh-test-count";
    CHECK_EQ(std::system(command.c_str()), 0);
    std::string text_read = read_text("/tmp/bh-test-count");
    ::unlink("/tmp/bh-test-count");
    return std::atoi(text_read.c_str());
  };
  (void)run_steps({shell("true")});
  int descriptors = count("/proc/$PPID/fd");
  std::string mounts = read_text("/proc/self/mountinfo");
  for (size_t length = 1; length < steps.size(); length++) {
    Run run = run_steps({steps.begin(), steps.begin() + static_cast<ptrdiff_t>(length)});
    CHECK(run.failed);
    CHECK_EQ(run.failure.detail, "no-exec");
    CHECK_EQ(run.exit_code(), 1);
  }
  CHECK_EQ(count("/proc/$PPID/fd"), descriptors);
  CHECK_EQ(read_text("/proc/self/mountinfo"), mounts);
  CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) < 0);
}

TEST(killed_at_a_gate_is_an_end_without_a_failure) {
  Rootfs root;
  ContainerSteps more;
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  RunOptions options;
  options.at_gate = [](const std::string&, pid_t pid) { return ::kill(pid, SIGKILL) == 0; };
  Run run = run_container(root.path(), "echo ran", more, options);
  CHECK(!run.failed);
  CHECK_EQ(run.out, "");
  CHECK_EQ(run.wait_status, SIGKILL);
}

TEST(fifo_gate_waits_for_a_byte) {
  Rootfs root;
  TempDir files;
  std::string fifo = files / "start";
  ::mkfifo(fifo.c_str(), 0600);
  RunOptions options;
  options.at_gate = [&](const std::string& point, pid_t) {
    CHECK_EQ(point, "start");
    UniqueFd writer(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK));
    CHECK(writer.valid());
    CHECK_EQ(::write(writer.get(), "0", 1), ssize_t{1});
    return true;
  };
  ContainerSteps more;
  more.outer.push_back(OpenFile{{9}, text(fifo), O_RDONLY | O_NONBLOCK});
  Gate gate;
  gate.point = text("start");
  gate.fifo_slot = {9};
  more.late.push_back(gate);
  Run run = run_container(root.path(), "echo ran", more, options);
  CHECK_EQ(run.out, "ran\n");
}

TEST(working_directory_must_be_inside) {
  Rootfs root;
  ContainerSteps more;
  Chdir chdir;
  // What CVE-2024-21626 did: a descriptor of a host directory as working directory. Slots that are
  // not needed any more are closed, so there is none to be found; one that is needed later must be
  // caught by getcwd.
  int refused = 0;
  more.outer.push_back(OpenFile{{5}, text("/etc"), O_RDONLY | O_DIRECTORY});
  for (int fd = 3; fd < 12; fd++) {
    chdir.path = text("/proc/self/fd/" + std::to_string(fd));
    more.late = {chdir};
    Gate gate;
    gate.point = text("start");
    more.late.push_back(gate);
    // Needs the slot, and so keeps it open that long.
    MountSetattr later;
    later.slot = {5};
    more.late.push_back(later);
    RunOptions options;
    options.at_gate = [&](const std::string&, pid_t pid) {
      // A descriptor of the container's own root is no way out.
      struct stat cwd, top;
      ::stat(("/proc/" + std::to_string(pid) + "/cwd").c_str(), &cwd);
      ::stat(root.path().c_str(), &top);
      CHECK(cwd.st_ino == top.st_ino && cwd.st_dev == top.st_dev);
      return false;
    };
    Run run = run_container(root.path(), "echo ran", more, options);
    CHECK_EQ(run.out, "");
    if (!run.failed) continue;
    refused += run.failure.detail == "cwd-outside-root";
    CHECK_EQ(run.failure.action, Chdir::kAction);
  }
  CHECK_EQ(refused, 1);
}

TEST(working_directory_is_made_when_asked) {
  Rootfs root;
  ContainerSteps more;
  Chdir chdir;
  chdir.path = text("/srv/app/data");
  chdir.create = true;
  more.late = {chdir};
  auto steps = container(root.path(), "pwd", more);
  steps.erase(steps.end() - 2);
  Run run = run_steps(steps);
  CHECK_EQ(run.out, "/srv/app/data\n");
  chdir.path = text("/nowhere");
  chdir.create = false;
  more.late = {chdir};
  run = run_container(root.path(), "pwd", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "chdir");
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.path, "/nowhere");
  CHECK_EQ(run.failure.action, Chdir::kAction);
}

}  // namespace bulkhead::test
