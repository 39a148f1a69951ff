#include "sentry/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

namespace bulkhead::sentry {

bool Caller::still_waits() const {
  uint64_t id = call_.id;
  return ::ioctl(listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

UniqueFd Caller::open_proc(const char* name, int flags) const {
  char path[48];
  std::snprintf(path, sizeof path, "%d/%s", tid(), name);
  UniqueFd file(::openat(proc_, path, flags | O_CLOEXEC | O_NOFOLLOW));
  // Opened first, asked then: what was opened is the caller's.
  if (!still_waits()) {
    file.reset();
    errno = ESRCH;
  }
  return file;
}

int Caller::write(uint64_t address, const void* data, size_t size) {
  UniqueFd memory = open_proc("mem", O_WRONLY);
  if (!memory) return errno == ESRCH ? ESRCH : EFAULT;
  ssize_t wrote = ::pwrite(memory.get(), data, size, static_cast<off_t>(address));
  return wrote == static_cast<ssize_t>(size) ? 0 : EFAULT;
}

std::string_view Caller::read_proc(const char* name, char* buffer, size_t size) const {
  UniqueFd file = open_proc(name, O_RDONLY);
  if (!file) return {};
  size_t length = 0;
  while (length < size) {
    ssize_t got = ::read(file.get(), buffer + length, size - length);
    if (got <= 0) break;
    length += static_cast<size_t>(got);
  }
  return {buffer, length};
}

std::string_view status_field(std::string_view status, std::string_view name) {
  size_t at = 0;
  while (at < status.size()) {
    size_t end = status.find('\n', at);
    if (end == std::string_view::npos) end = status.size();
    std::string_view line = status.substr(at, end - at);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == ':')
      return line.substr(name.size() + 1);
    at = end + 1;
  }
  return {};
}

}  // namespace bulkhead::sentry
