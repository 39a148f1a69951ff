// Hooks (config.md, "POSIX-platform Hooks").
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "core/pidfd.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

constexpr size_t kMaxOutput = 1024;

struct Pipe {
  UniqueFd read, write;
  bool open() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return false;
    read.reset(ends[0]);
    write.reset(ends[1]);
    return true;
  }
};

std::vector<char*> c_strings(const std::vector<Text>& texts) {
  std::vector<char*> list;
  list.reserve(texts.size() + 1);
  for (const Text& text : texts) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

[[noreturn]] void become_hook(const RunHook& step, mode_t mask, const Pipe& in, const Pipe& err) {
  // O_NONBLOCK: it is the image's /dev/null, which could be a fifo.
  int null_fd = ::open("/dev/null", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  int out = null_fd >= 0 ? null_fd : err.write.get();
  if (::dup2(in.read.get(), 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err.write.get(), 2) < 0)
    ::_exit(127);
  ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  ::umask(mask);
  ::setsid();
  std::vector<char*> args = c_strings(step.args);
  std::vector<char*> env = c_strings(step.env);
  if (args.size() == 1) args.insert(args.begin(), const_cast<char*>(step.path.c_str()));
  ::execve(step.path.c_str(), args.data(), env.data());
  ::_exit(errno == ENOENT ? 127 : 126);
}

int64_t now_ms() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

// Feeds the state, collects the start of stderr, until the hook has ended. False: time is up.
bool attend(const RunHook& step, int pidfd, Pipe& in, Pipe& err, std::string_view state,
            std::string& output) {
  int64_t deadline =
      step.timeout_seconds == 0 ? -1 : now_ms() + static_cast<int64_t>(step.timeout_seconds) * 1000;
  ::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(err.read.get(), F_SETFL, O_NONBLOCK);
  for (;;) {
    int64_t left = deadline < 0 ? -1 : deadline - now_ms();
    if (deadline >= 0 && left <= 0) return false;
    pollfd fds[3] = {{pidfd, POLLIN, 0}, {err.read.get(), POLLIN, 0}, {in.write.get(), POLLOUT, 0}};
    if (::poll(fds, 3, static_cast<int>(left)) < 0 && errno != EINTR) return true;
    if (in.write && fds[2].revents != 0) {
      ssize_t wrote = ::write(in.write.get(), state.data(), state.size());
      if (wrote > 0) state.remove_prefix(static_cast<size_t>(wrote));
      if (state.empty() || (wrote < 0 && errno != EAGAIN && errno != EINTR)) in.write.reset();
    }
    if (err.read && fds[1].revents != 0) {
      char text[512];
      ssize_t got = ::read(err.read.get(), text, sizeof text);
      if (got > 0 && output.size() < kMaxOutput) output.append(text, static_cast<size_t>(got));
      if (got == 0) err.read.reset();
      // What the hook itself said before it ended is there.
      if (got > 0 && output.size() < kMaxOutput) continue;
    }
    // A grandchild may hold stderr open, and write on; the hook itself is what counts.
    if (fds[0].revents != 0) return true;
  }
}

}  // namespace

Outcome carry_out(Context& context, const RunHook& step) {
  std::string state(reinterpret_cast<const char*>(step.state_prefix.data()),
                    step.state_prefix.size());
  state += std::to_string(::getpid());
  state.append(reinterpret_cast<const char*>(step.state_suffix.data()), step.state_suffix.size());
  Pipe in;
  Pipe err;
  if (!in.open() || !err.open()) return fail("pipe", step.path.view());
  // A hook that does not read its stdin must not kill us.
  ::signal(SIGPIPE, SIG_IGN);
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  pid_t pid = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
  if (pid < 0) return fail("clone", step.path.view());
  if (pid == 0) {
    ::signal(SIGPIPE, SIG_DFL);
    become_hook(step, context.inherited_umask, in, err);
  }
  UniqueFd hook(pidfd);
  in.read.reset();
  err.write.reset();
  std::string output;
  bool ended = attend(step, hook.get(), in, err, state, output);
  ::signal(SIGPIPE, SIG_DFL);
  if (!ended) (void)pidfd_signal(hook.get(), SIGKILL);
  auto status = wait_pidfd(hook.get(), true);
  Outcome outcome = done();
  if (!ended) {
    outcome = fail_with(ETIMEDOUT, "hook-timeout", step.path.view());
  } else if (!status) {
    outcome = fail_with(status.error().code, "hook-wait", step.path.view());
  } else if (status->wait_status != 0) {
    outcome = fail_with(ECANCELED, "hook-exit", step.path.view());
  }
  if (!outcome.ok()) {
    outcome.status = status ? status->wait_status : 0;
    outcome.output = output.substr(0, kMaxOutput);
  }
  return outcome;
}

}  // namespace bulkhead
