#include "test/harness.h"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bulkhead::test {

namespace {

const char* init_path() {
  const char* path = std::getenv("BULKHEAD_INIT");
  return path != nullptr ? path : "../build/native/bulkhead-init";
}

int remove_entry(const char* path, const struct stat*, int, FTW*) {
  return ::remove(path);
}

int64_t now_ms() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

// Drains what the container wrote; true at the end of the pipe.
bool drain(int fd, std::string& out) {
  char text[4096];
  for (;;) {
    ssize_t got = ::read(fd, text, sizeof text);
    if (got > 0) {
      out.append(text, static_cast<size_t>(got));
      continue;
    }
    return got == 0;
  }
}

void take_event(InitEvent event, int sync, const RunOptions& options, Run& run) {
  switch (event.kind) {
    case InitEvent::Kind::kCloned:
      run.pid = event.pid;
      break;
    case InitEvent::Kind::kPaused: {
      run.paused.push_back(event.point);
      bool proceed = !options.at_gate || options.at_gate(event.point, run.pid);
      (void)send_to_init(sync, proceed);
      break;
    }
    case InitEvent::Kind::kFailed:
      run.failed = true;
      run.failure = event.failure;
      break;
    case InitEvent::Kind::kWarning:
      run.warnings.push_back(event.failure);
      break;
    case InitEvent::Kind::kConsole:
      run.console = std::move(event.console);
      ::fcntl(run.console.get(), F_SETFL, O_NONBLOCK | O_RDWR);
      break;
    case InitEvent::Kind::kEnd:
      break;
  }
}

// Reads reports until the end, and output, within the time.
void follow(int sync, int out, const RunOptions& options, Run& run) {
  int64_t deadline = now_ms() + options.limit_ms;
  bool sync_open = true;
  bool out_open = true;
  while (sync_open || out_open || run.console) {
    int64_t left = deadline - now_ms();
    if (left <= 0) {
      run.timed_out = true;
      return;
    }
    pollfd fds[3] = {{sync_open ? sync : -1, POLLIN, 0},
                     {out_open ? out : -1, POLLIN, 0},
                     {run.console.get(), POLLIN, 0}};
    ::poll(fds, 3, static_cast<int>(left));
    if (fds[0].revents != 0) {
      auto event = read_init_event(sync);
      sync_open = event.ok() && event->kind != InitEvent::Kind::kEnd;
      if (sync_open) take_event(event.take(), sync, options, run);
    }
    if (fds[1].revents != 0) out_open = !drain(out, run.out);
    if (fds[2].revents != 0) {
      drain(run.console.get(), run.out);
      if ((fds[2].revents & (POLLHUP | POLLERR)) != 0) run.console.reset();
    }
  }
}

void reap(LaunchedOuter& outer, Run& run) {
  UniqueFd inner;
  if (run.pid != outer.pid) {
    auto opened = pidfd_open(run.pid);
    if (opened) inner = opened.take();
  }
  if (run.timed_out) {
    (void)pidfd_signal(outer.pidfd.get(), SIGKILL);
    if (inner) (void)pidfd_signal(inner.get(), SIGKILL);
  }
  auto status = wait_pidfd(outer.pidfd.get(), true);
  run.outer_status = status ? status->wait_status : -1;
  run.wait_status = run.outer_status;
  if (!inner) return;
  status = wait_pidfd(inner.get(), true);
  run.wait_status = status ? status->wait_status : -1;
}

}  // namespace

int init_fd() {
  static UniqueFd fd = [] {
    auto opened = open_init(init_path());
    if (!opened)
      std::printf("cannot open %s: %s\n", init_path(), std::strerror(opened.error().code));
    return opened.take();
  }();
  return fd.get();
}

TempDir::TempDir() {
  char name[] = "/tmp/bh-test-XXXXXX";
  path_ = ::mkdtemp(name);
  ::chmod(path_.c_str(), 0755);
}
TempDir::~TempDir() {
  ::nftw(path_.c_str(), remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

Rootfs::Rootfs() {
  for (const char* name : {"bin", "dev", "proc", "sys", "tmp", "etc", "data"}) {
    ::mkdir((*this / name).c_str(), 0755);
  }
  std::string command = "cp /bin/busybox " + (*this / "bin/busybox");
  if (std::system(command.c_str()) != 0) std::printf("busybox-static is not installed\n");
  for (const char* applet :
       {"sh", "cat", "echo", "ls", "id", "sleep", "true", "false", "stat", "mount", "grep",
        "hostname", "kill", "touch", "mkdir", "tty", "stty", "readlink", "ulimit"}) {
    ::symlink("busybox", (*this / ("bin/" + std::string(applet))).c_str());
  }
}

void write_text(const std::string& path, std::string_view value, int mode) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (::write(fd.get(), value.data(), value.size()) < 0)
    std::printf("cannot write %s\n", path.c_str());
  ::fchmod(fd.get(), static_cast<mode_t>(mode));
}

std::string read_text(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string value;
  if (fd) drain(fd.get(), value);
  return value;
}

bool exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

namespace {

Result<LaunchedOuter> launch_as(const LaunchArgs& args, const RunOptions& options) {
  using Spare = RunOptions::Spare;
  if (options.spare == Spare::kNo) return launch(args);
  auto spare = launch_spare(args.init_fd, args.exit_signal, options.spare == Spare::kWithNetwork);
  if (!spare) return spare;
  if (options.before_plan) options.before_plan(*spare);
  if (Status begun = begin_spare(*spare, args); !begun) {
    (void)wait_pidfd(spare->pidfd.get(), true);
    return begun.error();
  }
  return spare;
}

}  // namespace

Run run_bytes(std::string_view plan, const RunOptions& options) {
  Run run;
  int out[2];
  int in[2];
  if (::pipe2(out, O_CLOEXEC) < 0 || ::pipe2(in, O_CLOEXEC) < 0) return run;
  UniqueFd out_read(out[0]), out_write(out[1]), in_read(in[0]), in_write(in[1]);
  ::fcntl(out_read.get(), F_SETFL, O_NONBLOCK);
  if (::write(in_write.get(), options.stdin_text.data(), options.stdin_text.size()) < 0) return run;
  in_write.reset();

  UniqueFd copy;
  if (options.copy_of_init) copy = open_init_copy(init_path()).take();
  LaunchArgs args;
  args.init_fd = options.copy_of_init ? copy.get() : init_fd();
  args.plan = {reinterpret_cast<const uint8_t*>(plan.data()), plan.size()};
  args.stdio[0] = in_read.get();
  args.stdio[1] = args.stdio[2] = out_write.get();
  args.extra_fds = options.extra_fds;
  auto launched = launch_as(args, options);
  if (!launched) {
    std::printf("  launch: %s: %s\n", launched.error().op, std::strerror(launched.error().code));
    return run;
  }
  out_write.reset();
  in_read.reset();
  run.launched = true;
  run.pid = launched->pid;
  follow(launched->sync.get(), out_read.get(), options, run);
  reap(*launched, run);
  if (run.timed_out) std::printf("  timed out\n");
  return run;
}

Run run_steps(std::vector<StepBody> steps, const RunOptions& options) {
  PlanText plan;
  plan.steps = std::move(steps);
  return run_bytes(encode_plan(plan), options);
}

StepBody shell(std::string_view script) {
  Exec exec;
  exec.file = text("/bin/sh");
  exec.args = texts({"sh", "-c", script});
  exec.env = texts({"PATH=/bin"});
  return exec;
}

std::vector<StepBody> container(const std::string& root, std::string_view script,
                                ContainerSteps more) {
  constexpr uint32_t kRootSlot = 4000, kProcSlot = 4001, kDevSlot = 4002, kPtsSlot = 4003;
  std::vector<StepBody> steps;
  steps.push_back(
      OpenTree{.slot = {kRootSlot}, .path = text(root), .recursive = true, .base_slot = {}});
  for (auto& step : more.outer) steps.push_back(step);
  Clone clone;
  clone.namespaces = more.namespaces != 0
                         ? more.namespaces
                         : CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
  clone.uid_maps = more.uid_maps;
  clone.gid_maps = more.gid_maps;
  steps.push_back(clone);
  steps.push_back(SetPropagation{text("/"), Propagation::kSlave, true});
  Attach attach_root;
  attach_root.slot = {kRootSlot};
  attach_root.target = text(root);
  attach_root.host_target = true;
  steps.push_back(attach_root);
  steps.push_back(EnterRoot{text(root)});
  if (more.with_proc) {
    FsMount proc;
    proc.slot = {kProcSlot};
    proc.fstype = text("proc");
    steps.push_back(proc);
    Attach attach;
    attach.slot = {kProcSlot};
    attach.target = text("/proc");
    attach.make = TargetKind::kDirectory;
    attach.require_directory = true;
    steps.push_back(attach);
  }
  if (more.with_dev) {
    FsMount dev;
    dev.slot = {kDevSlot};
    dev.fstype = text("tmpfs");
    dev.options = texts({"mode=755", "size=64k"});
    steps.push_back(dev);
    Attach attach;
    attach.slot = {kDevSlot};
    attach.target = text("/dev");
    steps.push_back(attach);
    Mknod null_device;
    null_device.target = text("/dev/null");
    null_device.major = 1;
    null_device.minor = 3;
    null_device.mode = 0666;
    steps.push_back(null_device);
    FsMount pts;
    pts.slot = {kPtsSlot};
    pts.fstype = text("devpts");
    pts.options = texts({"newinstance", "ptmxmode=0666", "mode=620"});
    steps.push_back(pts);
    attach.slot = {kPtsSlot};
    attach.target = text("/dev/pts");
    attach.make = TargetKind::kDirectory;
    steps.push_back(attach);
  }
  for (auto& step : more.inner) steps.push_back(step);
  steps.push_back(PivotRoot{});
  for (auto& step : more.late) steps.push_back(step);
  Chdir chdir;
  chdir.path = text("/");
  steps.push_back(chdir);
  steps.push_back(shell(script));
  return steps;
}

Run run_container(const std::string& root, std::string_view script, ContainerSteps more,
                  const RunOptions& options) {
  return run_steps(container(root, script, std::move(more)), options);
}

}  // namespace bulkhead::test
