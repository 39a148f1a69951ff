#include "shim/engine_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "shim/unix_socket.h"

namespace bulkhead::shim {

namespace {

constexpr int kListenerFd = 3;
constexpr int kReportFd = 4;
constexpr int kLifted = 16;  // above every number that is assigned below

// Of containerd's environment the engine gets what programs need and what is meant for us. NODE_*
// stays out: NODE_OPTIONS could make it load foreign code, NODE_EXTRA_CA_CERTS costs 45 ms of every
// start.
bool passes(std::string_view variable) {
  for (std::string_view name : {"PATH=", "HOME=", "LANG=", "TZ=", "TMPDIR=", "XDG_RUNTIME_DIR="}) {
    if (variable.starts_with(name)) return true;
  }
  return variable.starts_with("LC_") || variable.starts_with("BULKHEAD_");
}

std::vector<char*> engine_environment() {
  static char default_path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  std::vector<char*> result;
  bool has_path = false;
  for (char** variable = environ; *variable != nullptr; variable++) {
    if (!passes(*variable)) continue;
    has_path = has_path || std::strncmp(*variable, "PATH=", 5) == 0;
    result.push_back(*variable);
  }
  if (!has_path) result.push_back(default_path);
  result.push_back(nullptr);
  return result;
}

// Runs in the grandchild. Returns only when execve failed.
void become_engine(const Install& install, int listener, int log, int report) {
  // Lifted first, so that no source lies among the targets; dup2(n, n) would keep O_CLOEXEC.
  int lifted_listener = ::fcntl(listener, F_DUPFD_CLOEXEC, kLifted);
  int lifted_log = ::fcntl(log, F_DUPFD_CLOEXEC, kLifted);
  int lifted_report = ::fcntl(report, F_DUPFD_CLOEXEC, kLifted);
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(lifted_log, 1) < 0 || ::dup2(lifted_log, 2) < 0 ||
      ::dup2(lifted_listener, kListenerFd) < 0 || ::dup3(lifted_report, kReportFd, O_CLOEXEC) < 0) {
    return;
  }
  if (null == 0) ::fcntl(0, F_SETFD, 0);
  ::syscall(SYS_close_range, kReportFd + 1, ~0u, 0);
  for (int signum = 1; signum < NSIG; signum++) ::signal(signum, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(0022);
  if (::chdir("/") < 0) return;

  std::string node = install.node();
  std::string script = install.engine();
  std::vector<char*> environment = engine_environment();
  char name[] = "bulkhead-engine";
  char* const arguments[] = {name, script.data(), nullptr};
  ::execve(node.c_str(), arguments, environment.data());
}

// Starts the engine as nobody's child (double fork, own session). 0, or the errno that kept it from
// starting.
int spawn_engine(const Install& install, int listener) {
  // O_APPEND: several engines may write one after the other. Not followed when it is a link.
  UniqueFd log(::open(install.engine_log().c_str(),
                      O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!log) return errno;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return errno;
  UniqueFd report_read(ends[0]);
  UniqueFd report_write(ends[1]);
  pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) {
    ::setsid();
    if (::fork() != 0) ::_exit(0);
    become_engine(install, listener, log.get(), report_write.get());
    int err = errno;
    // Either number works, according to how far it came.
    if (::write(kReportFd, &err, sizeof err) < 0)
      (void)!::write(report_write.get(), &err, sizeof err);
    ::_exit(127);
  }
  report_write.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  int err = 0;
  ssize_t got;
  do {
    got = ::read(report_read.get(), &err, sizeof err);
  } while (got < 0 && errno == EINTR);
  return got == sizeof err ? err : 0;
}

EngineConnection failed(int err, std::string what) {
  EngineConnection connection;
  connection.err = err;
  connection.what = std::move(what);
  return connection;
}

// With the lock held: a socket that nobody serves is replaced.
EngineConnection start_engine(const Install& install) {
  std::string path = install.engine_socket();
  ::unlink(path.c_str());
  ::unlink(install.engine_ttrpc().c_str());
  auto listener = listen_unix(path);
  if (!listener) return failed(listener.error().code, path + ": " + listener.error().op);
  // The engine's own event loop sets O_NONBLOCK as it likes; a fresh listener is handed over
  // blocking.
  ::fcntl(listener->get(), F_SETFL, 0);
  int err = spawn_engine(install, listener->get());
  if (err == 0) return {};
  ::unlink(path.c_str());
  return failed(err, install.node() + ": start the engine");
}

}  // namespace

EngineConnection connect_engine(const Install& install, bool nonblocking) {
  std::string path = install.engine_socket();
  EngineConnection connection;
  auto attempt = [&] {
    auto fd = connect_unix(path, nonblocking);
    if (fd) {
      connection.fd = fd.take();
      connection.err = 0;
      return true;
    }
    connection.err = fd.error().code;
    connection.what = path + ": " + fd.error().op;
    return connection.err != ENOENT && connection.err != ECONNREFUSED;
  };
  if (attempt()) return connection;

  int err = make_directories(install.root, 0700);
  if (err != 0) return failed(err, install.root + ": mkdir");
  UniqueFd lock(
      ::open(install.engine_lock().c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return failed(errno, install.engine_lock() + ": open");
  int rc;
  do {
    rc = ::flock(lock.get(), LOCK_EX | (nonblocking ? LOCK_NB : 0));
  } while (rc < 0 && errno == EINTR);
  if (rc < 0) return failed(errno, install.engine_lock() + ": lock");
  if (attempt()) return connection;  // somebody was faster
  EngineConnection started = start_engine(install);
  if (started.err != 0) return started;
  attempt();
  return connection;
}

}  // namespace bulkhead::shim
