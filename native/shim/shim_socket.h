// The socket that containerd talks to: /run/containerd/s/SHA256(address/namespace/group), one per
// pod.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "core/fd.h"

namespace bulkhead::shim {

class ShimSocket {
 public:
  // Listens, or finds that the pod's monitor does so already: listening() tells. A socket that
  // nobody serves is replaced. Launchers that race are put in order by a lock on the directory. 0
  // or an errno.
  int open(std::string_view containerd_address, std::string_view name_space,
           std::string_view group);

  bool listening() const { return listener_.valid(); }
  int listener() const { return listener_.get(); }
  UniqueFd take_listener() { return std::move(listener_); }
  const std::string& path() const { return path_; }

  // Stops listening and removes the path if it still is the one made by open().
  void remove();

  // Removes the socket if nobody serves it any more: a monitor that was killed could not. Paths
  // elsewhere are left alone.
  static void remove_dead(const std::string& path);

 private:
  UniqueFd listener_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace bulkhead::shim
