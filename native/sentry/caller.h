// The process whose system call is being answered. Its pid may be anybody's at any moment (it can
// be killed), so whatever is opened or read by pid is trusted only after the kernel has said once
// more that the call still waits (SECCOMP_IOCTL_NOTIF_ID_VALID, seccomp_unotify(2)).
#pragma once

#include <linux/limits.h>
#include <linux/seccomp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/fd.h"
#include "sentry/identity.h"
#include "sentry/text.h"

namespace bulkhead::sentry {

class Worker;

class Caller {
 public:
  // `listener` and `proc` (a descriptor of /proc) are borrowed.
  Caller(int listener, int proc, const seccomp_notif& call, Worker& worker)
      : listener_(listener), proc_(proc), call_(call), worker_(worker) {}

  int number() const { return call_.data.nr; }
  uint64_t argument(int index) const { return call_.data.args[index]; }
  // The lower half, which is all that the kernel sees of an int.
  int32_t integer(int index) const { return static_cast<int32_t>(call_.data.args[index]); }
  uint64_t id() const { return call_.id; }
  int listener() const { return listener_; }
  // In the supervisor's pid namespace.
  int tid() const { return static_cast<int>(call_.pid); }
  Worker& worker() { return worker_; }
  bool still_waits() const;

  // Of the caller's memory. 0 or errno (EFAULT; ESRCH when the call does not wait any more).
  int read(uint64_t address, void* data, size_t size);
  int write(uint64_t address, const void* data, size_t size);
  // A string with its end, which has to be within `size`: else ENAMETOOLONG. It is copied once;
  // what happens to the memory afterwards does not matter.
  int read_string(uint64_t address, char* text, size_t size);
  int read_path(uint64_t address, char (&path)[PATH_MAX]) {
    return read_string(address, path, sizeof path);
  }

  // One of the caller's descriptors: the same open file. Unset: errno says why (EBADF, ESRCH).
  UniqueFd descriptor(int number);
  // A link of the caller's directory in procfs ("cwd", "root"), as O_PATH.
  UniqueFd link(const char* name) const { return open_link(name); }

  // A file of the caller's own directory in procfs ("status"). Empty: it is gone. The text lives as
  // long as the buffer.
  template <size_t N>
  std::string_view read_proc(const char* name, char (&buffer)[N]) const {
    return read_proc(name, buffer, N);
  }

 private:
  std::string_view read_proc(const char* name, char* buffer, size_t size) const;
  UniqueFd open_proc(const char* name, int flags) const;
  UniqueFd open_link(const char* name) const;
  size_t copy_in(uint64_t address, char* data, size_t size) const;

  int listener_;
  int proc_;
  const seccomp_notif& call_;
  Worker& worker_;
};

}  // namespace bulkhead::sentry
