#include "agent/files.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

constexpr int kDeepest = 64;
constexpr int kBusyTries = 100;
constexpr useconds_t kBusyDelayUs = 10000;

bool starts_with_one_of(std::string_view path, std::initializer_list<std::string_view> roots) {
  return std::any_of(roots.begin(), roots.end(),
                     [path](std::string_view root) { return path.starts_with(root); });
}

FileContent read_one(const std::string& path) {
  FileContent file;
  file.path = path;
  auto fd = open_plain(path, O_RDONLY);
  if (!fd) {
    file.err = fd.error().code;
    return file;
  }
  struct stat info;
  if (::fstat(fd->get(), &info) < 0) {
    file.err = errno;
  } else if (S_ISDIR(info.st_mode)) {
    Names names = list_names(fd->get(), true, kMaxFileRead);
    file.err = names.err;
    file.data = std::move(names.joined);
  } else {
    auto text = read_text(fd->get(), kMaxFileRead);
    if (text) {
      file.data = text.take();
    } else {
      file.err = text.error().code;
    }
  }
  return file;
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
}

int write_existing(const FileWrite& file) {
  auto fd = open_plain(file.path, O_WRONLY);
  if (!fd) return fd.error().code;
  const ssize_t done = ::write(fd->get(), file.data.data(), file.data.size());
  if (done < 0) return errno;
  return static_cast<size_t>(done) == file.data.size() ? 0 : EIO;
}

// Readers see the old file or the new one, whole.
int replace(const FileWrite& file) {
  if (file.path.empty() || file.path[0] != '/') return EINVAL;
  if (int err = make_directories(parent_of(file.path))) return err;
  const std::string aside = file.path + ".bulkhead-new";
  ::unlink(aside.c_str());
  const uint32_t mode = file.mode == 0 ? 0644 : file.mode & 07777;
  auto fd = open_plain(aside, O_WRONLY | O_CREAT | O_EXCL, mode);
  if (!fd) return fd.error().code;
  size_t done = 0;
  int err = 0;
  while (done < file.data.size() && err == 0) {
    const ssize_t wrote = ::write(fd->get(), file.data.data() + done, file.data.size() - done);
    if (wrote < 0) {
      err = errno == EINTR ? 0 : errno;
    } else {
      done += static_cast<size_t>(wrote);
    }
  }
  if (err == 0 && ::fchmod(fd->get(), mode) < 0) err = errno;
  if (err == 0 && ::rename(aside.c_str(), file.path.c_str()) < 0) err = errno;
  if (err != 0) ::unlink(aside.c_str());
  return err;
}

// Removes what is below `fd` and on its file system. Files of a cgroup cannot be removed (EPERM)
// and go with it.
int empty_directory(int fd, dev_t device, int depth) {
  if (depth > kDeepest) return ELOOP;
  const Names names = list_names(fd, false, kMaxFileRead);
  if (names.err != 0) return names.err;
  int first = 0;
  for (size_t at = 0; at < names.joined.size();) {
    const size_t end = names.joined.find('\n', at);
    const std::string name = names.joined.substr(at, end - at);
    at = end + 1;
    struct stat info;
    if (::fstatat(fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) continue;
    int err = 0;
    if (S_ISDIR(info.st_mode)) {
      UniqueFd child(::openat(fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!child || info.st_dev != device) {
        err = child ? EXDEV : errno;
      } else {
        err = empty_directory(child.get(), device, depth + 1);
        if (err == 0 && ::unlinkat(fd, name.c_str(), AT_REMOVEDIR) < 0) err = errno;
      }
    } else if (::unlinkat(fd, name.c_str(), 0) < 0 && errno != EPERM) {
      err = errno;
    }
    if (err != ENOENT && first == 0) first = err;
  }
  return first;
}

int remove_one(const std::string& path) {
  auto fd = open_plain(path, O_RDONLY | O_DIRECTORY);
  if (!fd) {
    if (fd.error().code == ENOTDIR)
      return ::unlink(path.c_str()) == 0 || errno == ENOENT ? 0 : errno;
    return fd.error().code == ENOENT ? 0 : fd.error().code;
  }
  struct stat info;
  if (::fstat(fd->get(), &info) < 0) return errno;
  for (int tries = 0;; tries++) {
    int err = empty_directory(fd->get(), info.st_dev, 0);
    if (err == 0 && ::rmdir(path.c_str()) < 0) err = errno;
    if (err == 0 || err == ENOENT) return 0;
    if (err == EXDEV) return EBUSY;  // something is mounted in there, and stays
    // A cgroup is busy until its last process is reaped.
    if (err != EBUSY || tries >= kBusyTries) return err;
    ::usleep(kBusyDelayUs);
  }
}

}  // namespace

int make_directories(const std::string& path) {
  for (size_t at = 1; at != std::string::npos;) {
    at = path.find('/', at);
    const std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0755) < 0 && errno != EEXIST && errno != EROFS) return errno;
    if (at != std::string::npos) at++;
  }
  struct stat info;
  if (::stat(path.c_str(), &info) < 0) return errno;
  return S_ISDIR(info.st_mode) ? 0 : ENOTDIR;
}

bool never_waits(const ReadFiles& call) {
  return std::all_of(call.paths.begin(), call.paths.end(), [](const std::string& path) {
    return starts_with_one_of(path, {"/sys/", "/proc/", "/etc/"});
  });
}

// memory.max and its like reclaim first, which takes as long as it takes; cgroup.procs waits for an
// RCU grace period.
bool never_waits(const WriteFiles& call) {
  return std::all_of(call.files.begin(), call.files.end(), [](const FileWrite& file) {
    const std::string_view path = file.path;
    const std::string_view name = path.substr(path.rfind('/') + 1);
    return starts_with_one_of(path, {"/sys/fs/cgroup/", "/proc/sys/", "/etc/"}) &&
           !name.starts_with("memory.") && name != "cgroup.procs";
  });
}

CallReply read_files(const ReadFiles& call) {
  CallReply reply;
  size_t together = 0;
  for (const std::string& path : call.paths) {
    FileContent& file = reply.files.emplace_back(read_one(path));
    if (together + file.data.size() > kMaxFilesTogether) {
      file.data.clear();
      file.err = EFBIG;
    }
    together += file.data.size();
  }
  return reply;
}

CallReply write_files(const WriteFiles& call) {
  for (const FileWrite& file : call.files) {
    int err = 0;
    if (file.directory) {
      err = file.path.starts_with('/') ? make_directories(file.path) : EINVAL;
    } else {
      err = file.create ? replace(file) : write_existing(file);
    }
    if (err != 0 && !file.optional)
      return CallReply::failed(file.directory ? "mkdir" : "write", file.path, err);
  }
  return {};
}

CallReply await_file(const AwaitFile& call) {
  auto fd = open_plain(call.path, O_RDONLY);
  if (!fd) return CallReply::failed("open", call.path, fd.error().code);
  const std::string wanted = call.line + "\n";
  const uint64_t deadline = now_ms() + (call.timeout_ms == 0 ? kDefaultTimeoutMs : call.timeout_ms);
  for (;;) {
    // Reading is what arms the next POLLPRI.
    auto text = read_text(fd->get(), kMaxFileRead);
    if (!text) return CallReply::failed("read", call.path, text.error().code);
    if (("\n" + text.value()).find("\n" + wanted) != std::string::npos) return {};
    const uint64_t now = now_ms();
    if (now >= deadline) return CallReply::failed("wait", call.path, ETIMEDOUT);
    pollfd state{fd->get(), POLLPRI, 0};
    ::poll(&state, 1, static_cast<int>(std::min<uint64_t>(deadline - now, kMaxTimeoutMs)));
  }
}

CallReply remove_all(const Remove& call) {
  for (const std::string& path : call.paths) {
    if (int err = remove_one(path)) return CallReply::failed("remove", path, err);
  }
  return {};
}

}  // namespace bulkhead::agent
