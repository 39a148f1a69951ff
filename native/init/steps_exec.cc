// The way to the program: finding it, waiting at gates, the working directory, execve.
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <string>

#include "core/init_codec.h"
#include "init/executor.h"
#include "init/home.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

// 0: may be executed; else ENOENT, EACCES, ….
int check_executable(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) < 0) return errno == ENOTDIR ? ENOENT : errno;
  if (!S_ISREG(info.st_mode)) return EACCES;
  if (::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0) return 0;
  // EPERM is no answer of access(2) but of an early filter that does not know faccessat2: execve
  // will tell.
  return errno == EPERM ? 0 : errno;
}

std::string join(std::string_view directory, std::string_view name) {
  std::string path(directory);
  if (!path.empty() && path.back() != '/') path += '/';
  path += name;
  return path;
}

// Relative to cwd, which Chdir may set later only.
std::string absolute(std::string_view cwd, std::string path) {
  if (!path.empty() && path.front() == '/') return path;
  return join(cwd.empty() ? "/" : cwd, path);
}

Outcome wait_for_fifo(int fifo) {
  for (;;) {
    pollfd poll_fd{fifo, POLLIN, 0};
    if (::poll(&poll_fd, 1, -1) < 0) {
      if (errno == EINTR) continue;
      return fail("gate");
    }
    char byte;
    ssize_t got = ::read(fifo, &byte, 1);
    if (got == 1) return done();
    if (got < 0 && errno != EAGAIN && errno != EINTR) return fail("gate");
    // A writer came and went without a word; from then on poll does not wait any more.
    timespec pause{0, 5000000};
    ::nanosleep(&pause, nullptr);
  }
}

void forget_descriptors(Context& context) {
  // Before the program's descriptors move: a number that the launcher did not fill must not be one
  // of ours.
  context.slots.clear();
  context.namespace_files.clear();
  context.mapped_namespaces.clear();
  context.root.reset();
  context.host_proc.reset();
  context.procfs.reset();
  context.null_device.reset();
  context.empty_directory.reset();
}

// Really closed, not only marked: execve looks names up, and /proc/self/fd/N is a name
// (CVE-2024-21626).
void close_from(int first) {
  if (::syscall(SYS_close_range, static_cast<unsigned>(first), ~0u, 0) == 0) return;
  // An early filter refuses close_range; all of ours have low numbers, and O_CLOEXEC.
  for (int fd = first; fd < 256; fd++) ::close(fd);
}

// 3 … 2 + n: the program's extra descriptors, which the launcher put at 5 … 4 + n; 3 + n: the sync
// socket; behind it what is kept.
bool place_descriptors(Context& context, uint32_t count, int* keep) {
  int first_free = 3 + static_cast<int>(count);
  int floor = first_free + 2;
  UniqueFd sync(::fcntl(context.sync.get(), F_DUPFD_CLOEXEC, floor));
  UniqueFd kept(keep == nullptr ? -1 : ::fcntl(*keep, F_DUPFD_CLOEXEC, floor));
  if (!sync || (keep != nullptr && !kept)) return false;
  context.sync.reset();
  forget_descriptors(context);
  for (int i = 0; i < static_cast<int>(count); i++) {
    // One that the launcher did not give is not there for the program either.
    if (::dup2(kFirstExtraFd + i, 3 + i) < 0) ::close(3 + i);
  }
  ::dup3(sync.get(), first_free, O_CLOEXEC);
  context.sync.reset(first_free++);
  if (keep != nullptr) {
    ::dup3(kept.get(), first_free, O_CLOEXEC);
    *keep = first_free++;
  }
  sync.reset();
  kept.reset();
  close_from(first_free);
  return true;
}

std::vector<char*> c_strings(const std::vector<Text>& texts) {
  std::vector<char*> list;
  list.reserve(texts.size() + 1);
  for (const Text& text : texts) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

}  // namespace

Outcome carry_out(Context& context, const FindExecutable& step) {
  if (step.default_home) context.home = "HOME=" + home_of(::geteuid());
  std::string_view file = step.file.view();
  if (file.empty()) return fail_with(ENOENT, "empty-name");
  if (file.find('/') != std::string_view::npos) {
    std::string path = absolute(step.cwd.view(), std::string(file));
    if (int err = check_executable(path); err != 0) return fail_with(err, "executable", file);
    context.executable = path;
    return done();
  }
  bool denied = false;
  std::string_view rest = step.path.view();
  for (bool last = rest.empty(); !last;) {
    size_t colon = rest.find(':');
    last = colon == std::string_view::npos;
    std::string path = absolute(step.cwd.view(), join(rest.substr(0, colon), file));
    if (!last) rest.remove_prefix(colon + 1);
    int err = check_executable(path);
    if (err == 0) {
      context.executable = path;
      return done();
    }
    denied = denied || err == EACCES;
  }
  return fail_with(denied ? EACCES : ENOENT, denied ? "executable" : "not-in-path", file);
}

Outcome carry_out(Context& context, const Gate& step) {
  // `bulkhead create` returns when it hears of the gate.
  if (step.fifo_slot) outlive_launcher(context);
  report(context, encode_paused(step.point.view()));
  if (!step.fifo_slot) {
    await_proceed(context);
    return done();
  }
  int fifo = context.slot(step.fifo_slot).fd.get();
  if (fifo < 0) return fail_with(EBADF, "empty-slot", step.point.view());
  return wait_for_fifo(fifo);
}

Outcome carry_out(Context& context, const Chdir& step) {
  if (::chdir(step.path.c_str()) < 0) {
    if (errno != ENOENT || !step.create) return fail("chdir", step.path.view());
    int root = context.root ? context.root.get() : AT_FDCWD;
    UniqueFd directory = make_directories(root, step.path.view(), 0755);
    if (!directory || ::fchdir(directory.get()) < 0) return fail("mkdir", step.path.view());
  }
  // "(unreachable)/…": a descriptor of the host's was the working directory (CVE-2024-21626). The
  // system call, because getcwd(3) hides this case.
  char cwd[PATH_MAX];
  if (::syscall(SYS_getcwd, cwd, sizeof cwd) < 0) return fail("getcwd", step.path.view());
  if (cwd[0] != '/') return fail_with(EPERM, "cwd-outside-root", step.path.view());
  return done();
}

Outcome prepare_exec(Context& context, const Exec& step, int* keep) {
  if (step.preserve_fds > kMaxExtraFds) return fail_with(EINVAL, "preserve-fds");
  await_outer(context);
  context.arguments = c_strings(step.args);
  context.environment = c_strings(step.env);
  if (!context.home.empty()) {
    context.environment.insert(context.environment.end() - 1, context.home.data());
  }
  ::setsid();
  outlive_launcher(context);
  ::umask(context.inherited_umask);
  if (!place_descriptors(context, step.preserve_fds, keep)) return fail("place-descriptors");
  if (context.open_files && ::prlimit64(0, RLIMIT_NOFILE, &*context.open_files, nullptr) < 0) {
    return fail("setrlimit");
  }
  context.prepared = true;
  return done();
}

Outcome carry_out(Context& context, const Exec& step) {
  std::string file = step.file.empty() ? context.executable : std::string(step.file.view());
  if (file.empty()) return fail_with(ENOENT, "empty-name");
  if (!context.prepared) {
    Outcome outcome = prepare_exec(context, step);
    if (!outcome.ok()) return outcome;
  }
  ::execve(file.c_str(), context.arguments.data(), context.environment.data());
  int err = errno;
  // The file is there, so what is missing is its interpreter.
  const char* detail = err == ENOENT && ::access(file.c_str(), F_OK) == 0 ? "interpreter" : "exec";
  return fail_with(err, detail, file);
}

}  // namespace bulkhead
