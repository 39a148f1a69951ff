#include "init/copy_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/fd.h"

namespace bulkhead {

namespace {

// A hostile image cannot make us run out of stack or descriptors.
constexpr int kMaxDepth = 128;

int copy_xattrs(int from, int to) {
  char names[4096];
  ssize_t size = ::flistxattr(from, names, sizeof names);
  if (size <= 0) return 0;
  char value[4096];
  for (char* name = names; name < names + size; name += std::strlen(name) + 1) {
    ssize_t length = ::fgetxattr(from, name, value, sizeof value);
    // tmpfs may not take every name space (user.* before 6.6): the contents matter more.
    if (length >= 0) (void)!::fsetxattr(to, name, value, static_cast<size_t>(length), 0);
  }
  return 0;
}

int set_owner_and_mode(int to, const struct stat& info) {
  if (::fchown(to, info.st_uid, info.st_gid) < 0) return errno;
  // After chown, which clears set-user-id.
  return ::fchmod(to, info.st_mode & 07777) < 0 ? errno : 0;
}

int copy_file(int from_dir, int to_dir, const char* name) {
  UniqueFd from(::openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!from) return errno;
  struct stat info;
  if (::fstat(from.get(), &info) < 0) return errno;
  if (!S_ISREG(info.st_mode)) return ELOOP;
  UniqueFd to(::openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!to) return errno;
  for (;;) {
    ssize_t sent = ::sendfile(to.get(), from.get(), nullptr, 1u << 30);
    if (sent == 0) break;
    if (sent < 0) return errno;
  }
  copy_xattrs(from.get(), to.get());
  return set_owner_and_mode(to.get(), info);
}

int copy_symlink(int from_dir, int to_dir, const char* name, const struct stat& info) {
  char text[4096];
  ssize_t size = ::readlinkat(from_dir, name, text, sizeof text - 1);
  if (size < 0) return errno;
  text[size] = '\0';
  if (::symlinkat(text, to_dir, name) < 0) return errno;
  return ::fchownat(to_dir, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
}

int copy_node(int to_dir, const char* name, const struct stat& info) {
  if (::mknodat(to_dir, name, info.st_mode, info.st_rdev) < 0) return errno;
  return ::fchownat(to_dir, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
}

int copy_directory(UniqueFd from, int to, int depth, std::string& where);

int copy_subdirectory(int from_dir, int to_dir, const char* name, const struct stat& info,
                      int depth, std::string& where) {
  if (::mkdirat(to_dir, name, 0700) < 0) return errno;
  UniqueFd from(::openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  UniqueFd to(::openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!from || !to) return errno;
  copy_xattrs(from.get(), to.get());
  if (int err = copy_directory(std::move(from), to.get(), depth + 1, where); err != 0) return err;
  return set_owner_and_mode(to.get(), info);
}

int copy_entry(int from_dir, int to_dir, const char* name, int depth, std::string& where) {
  struct stat info;
  if (::fstatat(from_dir, name, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  switch (info.st_mode & S_IFMT) {
    case S_IFREG:
      return copy_file(from_dir, to_dir, name);
    case S_IFDIR:
      return copy_subdirectory(from_dir, to_dir, name, info, depth, where);
    case S_IFLNK:
      return copy_symlink(from_dir, to_dir, name, info);
    case S_IFSOCK:
      return 0;
    default:
      return copy_node(to_dir, name, info);
  }
}

int copy_directory(UniqueFd from, int to, int depth, std::string& where) {
  if (depth > kMaxDepth) return ELOOP;
  int from_fd = from.get();
  DIR* directory = ::fdopendir(from_fd);
  if (directory == nullptr) return errno;
  (void)from.release();
  int err = 0;
  while (err == 0) {
    errno = 0;
    dirent* entry = ::readdir(directory);
    if (entry == nullptr) {
      err = errno;
      break;
    }
    if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
    size_t length = where.size();
    where += where.empty() ? "" : "/";
    where += entry->d_name;
    err = copy_entry(from_fd, to, entry->d_name, depth, where);
    if (err == 0) where.resize(length);
  }
  ::closedir(directory);
  return err;
}

}  // namespace

int copy_tree(int from, int to, std::string& where) {
  // Both may be O_PATH.
  UniqueFd source(::openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  UniqueFd target(::openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!source || !target) return errno;
  struct stat info;
  if (::fstat(source.get(), &info) < 0) return errno;
  if (int err = set_owner_and_mode(target.get(), info); err != 0) return err;
  return copy_directory(std::move(source), target.get(), 0, where);
}

}  // namespace bulkhead
