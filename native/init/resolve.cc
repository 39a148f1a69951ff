#include "init/resolve.h"

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace bulkhead {

namespace {

// A rename or mount anywhere on the machine during the walk makes openat2 answer EAGAIN; somebody
// who renames all the time must not get us to give up soon.
constexpr int kAttempts = 1024;

UniqueFd openat2_retry(int directory, const char* path, int flags, uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = resolve;
  long fd = -1;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    fd = ::syscall(SYS_openat2, directory, path, &how, sizeof how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
  }
  return UniqueFd(static_cast<int>(fd));
}

// Cuts trailing slashes and the last component off. "a/b/" -> "a".
std::string_view parent_of(std::string_view path) {
  while (!path.empty() && path.back() == '/') path.remove_suffix(1);
  size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash);
}

bool next_component(std::string_view& rest, std::string_view& name) {
  while (!rest.empty() && rest.front() == '/') rest.remove_prefix(1);
  size_t end = rest.find('/');
  name = rest.substr(0, end);
  rest.remove_prefix(name.size());
  return !name.empty();
}

// Makes (when missing) and opens one directory level; never through a symlink.
UniqueFd descend(int parent, std::string_view name, mode_t mode, bool& made) {
  char text[256];
  if (name.size() >= sizeof text) {
    errno = ENAMETOOLONG;
    return UniqueFd();
  }
  std::memcpy(text, name.data(), name.size());
  text[name.size()] = '\0';
  made = ::mkdirat(parent, text, mode) == 0;
  if (!made && errno != EEXIST) return UniqueFd();
  return UniqueFd(::openat(parent, text, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

}  // namespace

UniqueFd open_in_root(int root, const char* path, int flags) {
  // RESOLVE_IN_ROOT wants something to resolve.
  if (*path == '\0') path = "/";
  uint64_t in_root = root == AT_FDCWD ? 0 : RESOLVE_IN_ROOT;
  return openat2_retry(root, path, flags, in_root | RESOLVE_NO_MAGICLINKS);
}

UniqueFd open_plain(int directory, const char* path, int flags) {
  return openat2_retry(
      directory, path, flags,
      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV);
}

UniqueFd open_beneath(int directory, const char* path, int flags) {
  while (*path == '/') path++;
  if (*path == '\0') path = ".";
  return openat2_retry(directory, path, flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
}

UniqueFd make_directories(int root, std::string_view path, mode_t mode, bool* made_last) {
  bool made = false;
  if (made_last != nullptr) *made_last = false;
  std::string prefix(path);
  UniqueFd directory = open_in_root(root, prefix.c_str(), O_PATH | O_DIRECTORY);
  // The deepest part that is there, by the kernel's own resolution; the rest must be plain names.
  while (!directory && errno == ENOENT && !prefix.empty()) {
    prefix.resize(parent_of(prefix).size());
    directory = open_in_root(root, prefix.c_str(), O_PATH | O_DIRECTORY);
  }
  if (!directory) return directory;
  std::string_view rest = path.substr(prefix.size());
  std::string_view name;
  while (next_component(rest, name)) {
    if (name == ".") continue;
    if (name == "..") {
      errno = EINVAL;
      return UniqueFd();
    }
    directory = descend(directory.get(), name, mode, made);
    if (!directory) return directory;
  }
  if (made_last != nullptr) *made_last = made;
  return directory;
}

bool make_place(int root, std::string_view path, Place& place) {
  while (!path.empty() && path.back() == '/') path.remove_suffix(1);
  std::string_view parent = parent_of(path);
  std::string_view name = path.substr(parent.size());
  while (!name.empty() && name.front() == '/') name.remove_prefix(1);
  if (name.empty() || name == "." || name == "..") {
    errno = EINVAL;
    return false;
  }
  if (name.size() >= sizeof place.name) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(place.name, name.data(), name.size());
  place.name[name.size()] = '\0';
  place.parent = make_directories(root, parent, 0755);
  return place.parent.valid();
}

UniqueFd make_file(int root, std::string_view path) {
  std::string text(path);
  UniqueFd file = open_in_root(root, text.c_str(), O_PATH);
  if (file || errno != ENOENT) return file;
  Place place;
  if (!make_place(root, path, place)) return UniqueFd();
  UniqueFd made(::openat(place.parent.get(), place.name,
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (made || errno != EEXIST) return made;
  // Somebody was faster, or it is a dangling symlink, which must not become a mount point.
  made.reset(::openat(place.parent.get(), place.name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info;
  if (made && (::fstat(made.get(), &info) < 0 || S_ISLNK(info.st_mode))) {
    made.reset();
    errno = ELOOP;
  }
  return made;
}

}  // namespace bulkhead
