#include "shim/fifo.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>

namespace bulkhead::shim {

UniqueFd reopen(int fd, int flags) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return UniqueFd(::open(path, flags | O_CLOEXEC | O_NOCTTY));
}

bool is_fifo(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISFIFO(info.st_mode);
}

}  // namespace bulkhead::shim
