// Where a path of a caller leads: found with openat2(2) from the caller's root, working directory
// or descriptor, with the caller's credentials, and never through a magic link. Links of procfs
// that mean the caller (/proc/self) and magic ones that it may follow (/proc/self/fd/1, which
// /dev/stdout is) are followed step by step (walk.h), because for the kernel "self" would be the
// supervisor.
#pragma once

#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "core/fd.h"
#include "sentry/caller.h"
#include "sentry/sandbox.h"

namespace bulkhead::sentry {

class Place {
 public:
  Place(const Sandbox& sandbox, Caller& caller) : sandbox_(sandbox), caller_(caller) {}

  // `number` is AT_FDCWD or the caller's descriptor, `address` the path in its memory. Reads the
  // path, becomes the caller, and finds where the path starts. 0 or errno.
  int from(int number, uint64_t address);
  // The same with a path of the supervisor's own.
  int from_text(const char* path);
  // An empty path at the caller's working directory.
  int from_cwd();

  const char* text() const { return path_; }
  bool empty() const { return *path_ == '\0'; }
  // Borrowed: what the path is relative to; of an empty path the object itself.
  int base() const { return base_; }

  // Opened with these flags and mode, both as openat2(2) takes them (O_CLOEXEC is added). Unset:
  // errno.
  UniqueFd open(uint64_t flags, uint64_t mode = 0);
  // Fills stat() without opening, where that needs no walk: a name in the base itself, and not what
  // a link there leads to. 0, or errno, or -1: open() has to do it.
  int look_here();
  // What was opened is; of the last open().
  const struct stat& stat() const { return stat_; }
  // The directory that the last component is in, and that component, with what slashes follow it.
  // Both borrowed. -1: errno.
  int parent(const char*& name);

 private:
  int take_root();
  int start(int number);
  UniqueFd walk_and_open(const char* path, uint64_t flags, uint64_t mode);
  UniqueFd open_path(const char* path, uint64_t flags, uint64_t mode);

  const Sandbox& sandbox_;
  Caller& caller_;
  char path_[PATH_MAX];
  char directory_[PATH_MAX];
  struct stat stat_ {};
  int root_ = -1;
  int base_ = -1;
  UniqueFd own_root_, held_, parent_;
};

// What a descriptor's file is, and what mount it is on.
struct Kind {
  mode_t mode = 0;
  uint32_t uid = 0;
  dev_t device = 0;
  ino_t inode = 0;
  uint64_t mount = 0;
  // It is where that mount begins.
  bool is_mount_root = false;
};
// 0 or errno.
int look_at(int fd, Kind& kind);

}  // namespace bulkhead::sentry
