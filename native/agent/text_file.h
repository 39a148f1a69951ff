// Small files of the kernel, by path or below a directory's descriptor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead::agent {

// open(2) of an absolute path without following symbolic links (openat2(2), RESOLVE_NO_SYMLINKS).
Result<UniqueFd> open_plain(const std::string& path, int flags, uint32_t mode = 0);

// Up to `limit` bytes; more is EFBIG.
Result<std::string> read_text(const std::string& path, size_t limit = 64u << 10);
// The same from an open file, from its beginning.
Result<std::string> read_text(int fd, size_t limit);
// A line without its line feed; empty when it cannot be read. Links are followed.
std::string read_line(const std::string& path);
// One write(2) to a file that is there. Links are followed.
Status write_text(const std::string& path, std::string_view text);

// The names in a directory, without "." and "..". Names of directories end in
// "/" when `mark`.
struct Names {
  int err = 0;
  std::string joined;  // one a line
};
Names list_names(int dir_fd, bool mark, size_t limit);

// Calls `visit(name)` for each entry of a directory until it returns true; whether it did.
template <class Visit>
bool any_entry(const std::string& directory, Visit visit);

uint64_t now_ms();  // CLOCK_MONOTONIC

}  // namespace bulkhead::agent

#include <dirent.h>

namespace bulkhead::agent {

template <class Visit>
bool any_entry(const std::string& directory, Visit visit) {
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return false;
  bool found = false;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (visit(std::string(name))) {
      found = true;
      break;
    }
  }
  ::closedir(dir);
  return found;
}

}  // namespace bulkhead::agent
