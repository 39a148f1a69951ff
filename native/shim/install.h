// Where everything lies: siblings of the running binary, and the state root of this instance.
#pragma once

#include <string>
#include <string_view>

namespace bulkhead::shim {

struct Install {
  std::string lib;   // PREFIX/lib/bulkhead
  std::string root;  // $BULKHEAD_ROOT, /run/bulkhead when unset

  std::string node() const { return lib + "/node"; }
  std::string engine() const { return lib + "/engine.cjs"; }
  std::string cli() const { return lib + "/cli.cjs"; }
  std::string init() const { return lib + "/bulkhead-init"; }
  std::string engine_socket() const { return root + "/engine.sock"; }
  std::string engine_lock() const { return root + "/engine.lock"; }
  std::string engine_log() const { return root + "/engine.log"; }
  // Made by an engine that serves and speaks ttrpc by default.
  std::string engine_ttrpc() const { return root + "/engine.ttrpc"; }
  // Directory of a container's record (src/state/paths.ts).
  std::string record(std::string_view name_space, std::string_view id) const {
    return root + "/tasks/" + std::string(name_space) + "/" + std::string(id);
  }
};

// From /proc/self/exe (PREFIX/bin/…) and the environment. A root that is not absolute is refused by
// an empty `root`.
Install find_install();

}  // namespace bulkhead::shim
