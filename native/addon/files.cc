// Mounts, files beneath a root, locks.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <span>
#include <string>
#include <vector>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

// mount(source, target, fstype, flags, data)
Napi::Value mount_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string source;
  std::string target;
  std::string fstype;
  std::string data;
  int64_t flags = 0;
  if (!get_string(info[0], "source", source) || !get_string(info[1], "target", target) ||
      !get_string(info[2], "fstype", fstype) ||
      !get_integer(info[3], "flags", 0, UINT32_MAX, flags) || !get_string(info[4], "data", data)) {
    return env.Undefined();
  }
  const int rc = ::mount(source.c_str(), target.c_str(), fstype.empty() ? nullptr : fstype.c_str(),
                         static_cast<unsigned long>(flags), data.empty() ? nullptr : data.c_str());
  if (rc != 0) return throw_errno(env, errno, "mount", target);
  return env.Undefined();
}

// umount(target, flags)
Napi::Value umount_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string target;
  int flags = 0;
  if (!get_string(info[0], "target", target) || !get_int(info[1], "flags", 0, INT32_MAX, flags)) {
    return env.Undefined();
  }
  if (::umount2(target.c_str(), flags) != 0) return throw_errno(env, errno, "umount", target);
  return env.Undefined();
}

int open_in_root(int root, const char* path, int flags = O_RDONLY) {
  open_how how{};
  // O_NONBLOCK: opening a fifo must not wait for a writer; O_NOCTTY: nor a terminal become ours.
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  int fd = -1;
  // EAGAIN: a rename or mount somewhere raced with a ".." (openat2(2)).
  for (int tries = 0; tries < 64; ++tries) {
    fd = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof(how)));
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
  }
  return fd;
}

// Reads a whole regular file of at most `limit` bytes. 0 or an errno.
int read_regular(int fd, size_t limit, std::vector<uint8_t>& out) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  if (!S_ISREG(status.st_mode)) return EINVAL;
  out.resize(limit + 1);
  size_t size = 0;
  while (size < out.size()) {
    const ssize_t got = ::read(fd, out.data() + size, out.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > limit) return EFBIG;
  out.resize(size);
  return 0;
}

// readFileInRoot(root, path, limit): Uint8Array
Napi::Value read_file_in_root(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string root;
  std::string path;
  int limit = 0;
  if (!get_string(info[0], "root", root) || !get_string(info[1], "path", path) ||
      !get_int(info[2], "limit", 0, 64 << 20, limit)) {
    return env.Undefined();
  }
  const UniqueFd dir(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return throw_errno(env, errno, "open", root);
  const UniqueFd file(open_in_root(dir.get(), path.c_str()));
  if (!file) return throw_errno(env, errno, "openat2", path);
  std::vector<uint8_t> contents;
  const int error = read_regular(file.get(), static_cast<size_t>(limit), contents);
  if (error != 0) return throw_errno(env, error, "read", path);
  return Napi::Buffer<uint8_t>::Copy(env, contents.data(), contents.size());
}

// The directory of `path` beneath the root, with those made that are missing. -1 with errno.
int directory_in_root(int root, const std::string& path) {
  UniqueFd directory;
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string part = at == std::string::npos ? path : path.substr(0, at);
    const size_t name = part.rfind('/');
    const std::string parent = name == std::string::npos ? "." : part.substr(0, name + 1);
    directory.reset(open_in_root(root, parent.c_str(), O_RDONLY | O_DIRECTORY));
    if (!directory) return -1;
    if (at == std::string::npos) return directory.release();
    if (::mkdirat(directory.get(), part.substr(name + 1).c_str(), 0755) != 0 && errno != EEXIST) {
      return -1;
    }
  }
}

bool write_all(int fd, const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t done = ::write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    data += done;
    size -= static_cast<size_t>(done);
  }
  return true;
}

// writeFileInRoot(root, path, data, mode): replaces the file, and makes its directories.
Napi::Value write_file_in_root(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string root;
  std::string path;
  int mode = 0;
  std::span<const uint8_t> data;
  if (!get_string(info[0], "root", root) || !get_string(info[1], "path", path) ||
      !get_bytes(info[2], "data", data) || !get_int(info[3], "mode", 0, 0777, mode)) {
    return env.Undefined();
  }
  const UniqueFd top(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!top) return throw_errno(env, errno, "open", root);
  const UniqueFd directory(directory_in_root(top.get(), path));
  if (!directory) return throw_errno(env, errno, "openat2", path);
  const std::string name = path.substr(path.rfind('/') + 1);
  const std::string made = "." + name + ".bulkhead";
  // Nobody else is in the container yet: what has this name is left from a create that was cut
  // short.
  (void)::unlinkat(directory.get(), made.c_str(), 0);
  const UniqueFd file(::openat(directory.get(), made.c_str(),
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return throw_errno(env, errno, "open", path);
  if (!write_all(file.get(), data.data(), data.size()) ||
      ::fchmod(file.get(), static_cast<mode_t>(mode)) != 0 ||
      ::renameat(directory.get(), made.c_str(), directory.get(), name.c_str()) != 0) {
    const int error = errno;
    (void)::unlinkat(directory.get(), made.c_str(), 0);
    return throw_errno(env, error, "write", path);
  }
  return env.Undefined();
}

// listInRoot(root, path): string[]
Napi::Value list_in_root(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string root;
  std::string path;
  if (!get_string(info[0], "root", root) || !get_string(info[1], "path", path)) {
    return env.Undefined();
  }
  const UniqueFd top(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!top) return throw_errno(env, errno, "open", root);
  UniqueFd opened(open_in_root(top.get(), path.c_str(), O_RDONLY | O_DIRECTORY));
  if (!opened) return throw_errno(env, errno, "openat2", path);
  DIR* directory = ::fdopendir(opened.get());
  if (directory == nullptr) return throw_errno(env, errno, "opendir", path);
  (void)opened.release();
  const Napi::Array names = Napi::Array::New(env);
  uint32_t count = 0;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.Set(count++, name);
  }
  ::closedir(directory);
  return names;
}

// mapSync(path, length): throws EOPNOTSUPP when stores to the path's memory are not durable by
// themselves.
Napi::Value map_sync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int64_t length = 0;
  if (!get_string(info[0], "path", path) || !get_integer(info[1], "length", 1, 1LL << 40, length)) {
    return env.Undefined();
  }
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return throw_errno(env, errno, "stat", path);
  // In a directory: a file without a name, which is gone when it is closed.
  const int flags = S_ISDIR(status.st_mode) ? O_TMPFILE : 0;
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | flags, 0600));
  if (!file) return throw_errno(env, errno, "open", path);
  if (flags != 0 && ::ftruncate(file.get(), length) != 0) {
    return throw_errno(env, errno, "ftruncate", path);
  }
  const auto size = static_cast<size_t>(length);
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, file.get(), 0);
  if (memory == MAP_FAILED) return throw_errno(env, errno, "mmap", path);
  ::munmap(memory, size);
  return env.Undefined();
}

// mkfifo(path, mode); the umask is not applied.
Napi::Value mkfifo_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int mode = 0;
  if (!get_string(info[0], "path", path) || !get_int(info[1], "mode", 0, 07777, mode)) {
    return env.Undefined();
  }
  if (::mkfifo(path.c_str(), static_cast<mode_t>(mode)) != 0 ||
      ::chmod(path.c_str(), static_cast<mode_t>(mode)) != 0) {
    return throw_errno(env, errno, "mkfifo", path);
  }
  return env.Undefined();
}

// flock(fd, nonBlocking)
Napi::Value flock_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  const int operation = LOCK_EX | (info[1].ToBoolean() ? LOCK_NB : 0);
  int rc = 0;
  do {
    rc = ::flock(fd, operation);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) return throw_errno(env, errno, "flock");
  return env.Undefined();
}

}  // namespace

void define_files(Napi::Env env, Napi::Object exports) {
  define<mount_function>(env, exports, "mount");
  define<umount_function>(env, exports, "umount");
  define<read_file_in_root>(env, exports, "readFileInRoot");
  define<write_file_in_root>(env, exports, "writeFileInRoot");
  define<list_in_root>(env, exports, "listInRoot");
  define<map_sync>(env, exports, "mapSync");
  define<mkfifo_function>(env, exports, "mkfifo");
  define<flock_function>(env, exports, "flock");
}

}  // namespace bulkhead::addon
