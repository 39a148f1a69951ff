// The two ways of running bulkhead-init so that /proc/PID/exe is no way to write to it
// (CVE-2019-5736).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "core/launch.h"
#include "core/slow_close.h"

namespace bulkhead {

namespace {

#ifndef F_SEAL_EXEC
constexpr int F_SEAL_EXEC = 0x0020;  // Linux 6.3
#endif
constexpr unsigned kMfdExec =
    0x0010;  // MFD_EXEC, Linux 6.3; asked for where vm.memfd_noexec is set

bool set_string(int fs, const char* key, const char* value) {
  return ::fsconfig(fs, FSCONFIG_SET_STRING, key, value, 0) == 0;
}

Result<UniqueFd> make_file_system(UniqueFd fs) {
  if (::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return last_error("fsconfig");
  UniqueFd mount(::fsmount(fs.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV));
  if (!mount) return last_error("fsmount");
  return mount;
}

// A read-only overlay of the file's directory, never attached anywhere. Overlayfs wants two lower
// layers when there is no upper one: the second is an empty tmpfs.
Result<UniqueFd> open_by_overlay(const char* path) {
  const char* slash = std::strrchr(path, '/');
  std::string directory =
      slash == nullptr ? "." : std::string(path, slash == path ? 1 : slash - path);
  const char* name = slash == nullptr ? path : slash + 1;

  UniqueFd dir(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return last_error("open");
  UniqueFd tmpfs(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!tmpfs) return last_error("fsopen");
  auto empty = make_file_system(std::move(tmpfs));
  if (!empty) return empty.error();
  UniqueFd overlay(::fsopen("overlay", FSOPEN_CLOEXEC));
  if (!overlay) return last_error("fsopen");
  char lower[80];
  std::snprintf(lower, sizeof lower, "/proc/self/fd/%d:/proc/self/fd/%d", dir.get(), empty->get());
  if (!set_string(overlay.get(), "source", "bulkhead-init") ||
      !set_string(overlay.get(), "lowerdir", lower)) {
    return last_error("fsconfig");
  }
  auto mount = make_file_system(std::move(overlay));
  if (!mount) return mount.error();
  UniqueFd file(::openat(mount->get(), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return last_error("open");
  // The file holds what it needs. A detached mount whose descriptor is closed is taken apart, which
  // waits for an RCU grace period: 0.4 ms each in which a monitor could launch.
  (void)close_elsewhere(mount.take(), empty.take());
  return file;
}

}  // namespace

Result<UniqueFd> open_init_copy(const char* path) {
  UniqueFd from(::open(path, O_RDONLY | O_CLOEXEC));
  if (!from) return last_error("open");
  struct stat info;
  if (::fstat(from.get(), &info) < 0) return last_error("fstat");
  UniqueFd copy(::memfd_create("bulkhead-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | kMfdExec));
  if (!copy && errno == EINVAL)
    copy.reset(::memfd_create("bulkhead-init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!copy) return last_error("memfd_create");
  off_t offset = 0;
  while (offset < info.st_size) {
    ssize_t sent =
        ::sendfile(copy.get(), from.get(), &offset, static_cast<size_t>(info.st_size - offset));
    if (sent < 0) return last_error("sendfile");
    if (sent == 0) return Error{EIO, "sendfile"};
  }
  if (::fchmod(copy.get(), 0555) < 0) return last_error("fchmod");
  constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  if (::fcntl(copy.get(), F_ADD_SEALS, kSeals | F_SEAL_EXEC) < 0 &&
      (errno != EINVAL || ::fcntl(copy.get(), F_ADD_SEALS, kSeals) < 0)) {
    return last_error("seal");
  }
  return copy;
}

Result<UniqueFd> open_init(const char* path) {
  auto file = open_by_overlay(path);
  if (file || file.error().code == ENOENT) return file;
  return open_init_copy(path);
}

}  // namespace bulkhead
