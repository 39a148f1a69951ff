#include "sentry/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

constexpr size_t kPage = 4096;
// Most paths are shorter.
constexpr size_t kFirstLook = 256;

}  // namespace

bool Caller::still_waits() const {
  uint64_t id = call_.id;
  return ::ioctl(listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

UniqueFd Caller::open_proc(const char* name, int flags) const {
  char path[48];
  std::snprintf(path, sizeof path, "%d/%s", tid(), name);
  UniqueFd file(::openat(proc_, path, flags | O_CLOEXEC));
  int error = errno;
  // Opened first, asked then: what was opened is the caller's.
  if (!still_waits()) {
    file.reset();
    error = ESRCH;
  }
  errno = error;
  return file;
}

UniqueFd Caller::open_link(const char* name) const {
  worker_.self.regain_sight();
  return open_proc(name, O_PATH);
}

// Bytes that could be read, from the first on: a string may end right before memory that is not
// there.
size_t Caller::copy_in(uint64_t address, char* data, size_t size) const {
  size_t first = std::min(size, kPage - address % kPage);
  iovec local{data, size};
  iovec remote[2] = {{reinterpret_cast<void*>(address), first},
                     {reinterpret_cast<void*>(address + first), size - first}};
  ssize_t got = ::process_vm_readv(tid(), &local, 1, remote, size > first ? 2 : 1, 0);
  return got < 0 ? 0 : static_cast<size_t>(got);
}

int Caller::read(uint64_t address, void* data, size_t size) {
  worker_.self.regain_sight();
  size_t got = 0;
  while (got < size) {
    size_t more = copy_in(address + got, static_cast<char*>(data) + got,
                          std::min(size - got, 2 * kPage - (address + got) % kPage));
    if (more == 0) break;
    got += more;
  }
  if (!still_waits()) return ESRCH;
  return got == size ? 0 : EFAULT;
}

int Caller::read_string(uint64_t address, char* text, size_t size) {
  worker_.self.regain_sight();
  size_t have = 0;
  for (size_t wanted = std::min(kFirstLook, size); have < wanted; wanted = size) {
    size_t got = copy_in(address + have, text + have,
                         std::min(wanted - have, 2 * kPage - (address + have) % kPage));
    bool ended = std::memchr(text + have, '\0', got) != nullptr;
    if (ended || got == 0) {
      if (!still_waits()) return ESRCH;
      return ended ? 0 : EFAULT;
    }
    have += got;
  }
  return still_waits() ? ENAMETOOLONG : ESRCH;
}

// The pid cannot become another process's between the question and the write: that takes as many
// forks as there are pids. And all that the supervisor can write to is its own sandbox.
int Caller::write(uint64_t address, const void* data, size_t size) {
  worker_.self.regain_sight();
  if (!still_waits()) return ESRCH;
  iovec local{const_cast<void*>(data), size};
  iovec remote{reinterpret_cast<void*>(address), size};
  ssize_t wrote = ::process_vm_writev(tid(), &local, 1, &remote, 1, 0);
  return wrote == static_cast<ssize_t>(size) ? 0 : EFAULT;
}

UniqueFd Caller::descriptor(int number) {
  if (number < 0) {
    errno = EBADF;
    return {};
  }
  worker_.self.regain_sight();
  return worker_.descriptor(*this, number);
}

std::string_view Caller::read_proc(const char* name, char* buffer, size_t size) const {
  UniqueFd file = open_proc(name, O_RDONLY | O_NOFOLLOW);
  if (!file) return {};
  size_t length = 0;
  while (length < size) {
    ssize_t got = ::read(file.get(), buffer + length, size - length);
    if (got <= 0) break;
    length += static_cast<size_t>(got);
  }
  return {buffer, length};
}

}  // namespace bulkhead::sentry
