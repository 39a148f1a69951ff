#include "sentry/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

namespace bulkhead::sentry {

namespace {

// "6.18.44-host1" is 6.18.0: enough for what programs decide by it.
void shorten_release(char* release, size_t size) {
  unsigned major = 0;
  unsigned minor = 0;
  if (std::sscanf(release, "%u.%u", &major, &minor) != 2) return;
  std::snprintf(release, size, "%u.%u.0", major, minor);
}

UniqueFd open_in(const char* directory, const char* name) {
  std::string path = std::string(directory) + "/" + name;
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

bool read_number(int fd, uint64_t& value) {
  char text[32];
  ssize_t got = fd < 0 ? -1 : ::pread(fd, text, sizeof text, 0);
  if (got <= 0) return false;
  std::string_view view(text, static_cast<size_t>(got));
  return take_number(view, value);
}

}  // namespace

bool Sandbox::memory(uint64_t& limit, uint64_t& used) const {
  // "max", or on v1 a number that no machine has.
  return read_number(memory_limit.get(), limit) && limit < (1ull << 60) &&
         read_number(memory_usage.get(), used);
}

int prepare(Sandbox& sandbox, const char* memory_cgroup) {
  sandbox.proc.reset(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!sandbox.proc) return errno;
  ::clock_gettime(CLOCK_BOOTTIME, &sandbox.started);
  if (*memory_cgroup == '\0') return 0;
  sandbox.memory_limit = open_in(memory_cgroup, "memory.max");
  sandbox.memory_usage = open_in(memory_cgroup, "memory.current");
  if (!sandbox.memory_limit) {
    sandbox.memory_limit = open_in(memory_cgroup, "memory.limit_in_bytes");
    sandbox.memory_usage = open_in(memory_cgroup, "memory.usage_in_bytes");
  }
  return 0;
}

namespace {

// Of whole files in procfs, which have no length.
std::string read_all(int fd) {
  std::string text;
  char part[4096];
  for (ssize_t got; (got = ::pread(fd, part, sizeof part, static_cast<off_t>(text.size()))) > 0;)
    text.append(part, static_cast<size_t>(got));
  return text;
}

UniqueFd open_of(const Sandbox& sandbox, int pid, const char* name) {
  char path[32];
  std::snprintf(path, sizeof path, "%d/%s", pid, name);
  return UniqueFd(::openat(sandbox.proc.get(), path, O_RDONLY | O_CLOEXEC));
}

}  // namespace

bool Sandbox::knows_mount(uint64_t id) const {
  ::pthread_mutex_lock(&lock_);
  bool known = std::binary_search(table_.ids.begin(), table_.ids.end(), id);
  ::pthread_mutex_unlock(&lock_);
  return known;
}

bool Sandbox::has_mount(uint64_t id) const {
  if (knows_mount(id)) return true;
  look_again();
  return knows_mount(id);
}

bool Sandbox::is_proc(dev_t device) const {
  ::pthread_mutex_lock(&lock_);
  bool found = std::find(table_.proc.begin(), table_.proc.end(), device) != table_.proc.end();
  ::pthread_mutex_unlock(&lock_);
  return found;
}

size_t Sandbox::mount_count() const {
  ::pthread_mutex_lock(&lock_);
  size_t count = table_.ids.size();
  ::pthread_mutex_unlock(&lock_);
  return count;
}

bool Sandbox::is_guarded(uint64_t id) const {
  return std::binary_search(guarded_.begin(), guarded_.end(), id);
}

void Sandbox::note_mount(uint64_t id) const {
  ::pthread_mutex_lock(&lock_);
  made_.push_back(id);
  ::pthread_mutex_unlock(&lock_);
}

bool Sandbox::made_mount(uint64_t id) const {
  ::pthread_mutex_lock(&lock_);
  bool made = std::find(made_.begin(), made_.end(), id) != made_.end();
  ::pthread_mutex_unlock(&lock_);
  return made;
}

void Sandbox::look_again() const {
  ::pthread_mutex_lock(&lock_);
  MountTable table = parse_mounts(read_all(mount_info_.get()));
  table_ = std::move(table);
  // What went with a mount above it; its number may be another's next.
  std::erase_if(made_, [&](uint64_t id) {
    return !std::binary_search(table_.ids.begin(), table_.ids.end(), id);
  });
  ::pthread_mutex_unlock(&lock_);
}

int enter(Sandbox& sandbox, int pid) {
  // Shows what it did when it was opened: all from this process's root on, which is the sandbox's.
  sandbox.mount_info_ = open_of(sandbox, pid, "mountinfo");
  sandbox.table_ = parse_mounts(read_all(sandbox.mount_info_.get()));
  if (sandbox.table_.ids.empty()) return ESRCH;
  sandbox.guarded_ = sandbox.table_.guarded;
  // Opened first: the names are the host's.
  UniqueFd spaces[4];
  const char* types[] = {"ns/user", "ns/uts", "ns/ipc", "ns/mnt"};
  for (int i = 0; i < 4; i++) {
    spaces[i] = open_of(sandbox, pid, types[i]);
    if (!spaces[i]) return errno;
  }
  for (const UniqueFd& space : spaces) {
    if (::setns(space.get(), 0) < 0) return errno;
  }
  if (::setgroups(0, nullptr) < 0 || ::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0)
    return errno;
  // Root and working directory are the sandbox's since setns(2).
  sandbox.root.reset(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!sandbox.root) return errno;
  utsname& names = sandbox.names;
  if (::uname(&names) < 0) return errno;
  shorten_release(names.release, sizeof names.release);
  std::snprintf(names.version, sizeof names.version, "#1 SMP");
  return 0;
}

}  // namespace bulkhead::sentry
