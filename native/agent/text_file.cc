#include "agent/text_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

namespace bulkhead::agent {

Result<UniqueFd> open_plain(const std::string& path, int flags, uint32_t mode) {
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos)
    return Error{EINVAL, "open"};
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;
  how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how);
  if (fd < 0) return last_error("open");
  return UniqueFd(static_cast<int>(fd));
}

Result<std::string> read_text(int fd, size_t limit) {
  std::string text;
  char block[4096];
  for (;;) {
    const ssize_t got = ::pread(fd, block, sizeof block, static_cast<off_t>(text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return last_error("read");
    if (got == 0) return text;
    if (text.size() + static_cast<size_t>(got) > limit) return Error{EFBIG, "read"};
    text.append(block, static_cast<size_t>(got));
  }
}

Result<std::string> read_text(const std::string& path, size_t limit) {
  auto fd = open_plain(path, O_RDONLY);
  if (!fd) return fd.error();
  return read_text(fd->get(), limit);
}

std::string read_line(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return {};
  char text[256];
  const ssize_t got = ::read(fd.get(), text, sizeof text);
  if (got <= 0) return {};
  std::string line(text, static_cast<size_t>(got));
  line.resize(std::strcspn(line.c_str(), "\n"));
  return line;
}

Status write_text(const std::string& path, std::string_view text) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return last_error("open");
  if (::write(fd.get(), text.data(), text.size()) < 0) return last_error("write");
  return success();
}

Names list_names(int dir_fd, bool mark, size_t limit) {
  Names names;
  UniqueFd copy(::fcntl(dir_fd, F_DUPFD_CLOEXEC, 3));
  DIR* dir = copy ? ::fdopendir(copy.get()) : nullptr;
  if (dir == nullptr) {
    names.err = errno;
    return names;
  }
  (void)copy.release();
  ::rewinddir(dir);  // the copy shares its position with the original
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.joined.size() + name.size() + 2 > limit) {
      names.err = EFBIG;
      break;
    }
    names.joined += name;
    names.joined += mark && entry->d_type == DT_DIR ? "/\n" : "\n";
  }
  ::closedir(dir);
  return names;
}

uint64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

}  // namespace bulkhead::agent
