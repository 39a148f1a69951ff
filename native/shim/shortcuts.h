// What the launcher knows without asking the engine, which saves a round trip where nothing has to
// be decided (docs/decisions/007). In doubt the engine is asked.
#pragma once

#include <string>
#include <string_view>

#include "shim/install.h"

namespace bulkhead::shim {

// What config.json says, found as text: containerd writes it, without spaces. Nothing depends on it
// being right.
struct Glance {
  bool read = false;  // else nothing is known
  bool names_pod = false;
  // The container gets a network namespace of its own, and no user namespace.
  bool new_network = false;
};
Glance glance_at_config(std::string_view bundle);

// A start whose answer is known: the engine that serves `install.engine_socket()` speaks ttrpc
// unless told otherwise (it says so by `install.engine_ttrpc()`), nobody tells otherwise (`input`,
// the options, is empty), and config.json names no pod.
bool start_is_plain(const Install& install, const Glance& config, std::string_view input);

// Path of the monitor's socket, from the bundle's address file as `start` wrote it; empty: it names
// none.
std::string socket_of_bundle(std::string_view bundle);

// A delete that has nothing to do, as after every proper one: the monitor has removed its socket
// (socket_of_bundle), and there is no record of the container.
bool nothing_left(const Install& install, std::string_view name_space, std::string_view id,
                  const std::string& socket);

// containerd's DeleteResponse for a container of which nothing is left: killed, now.
std::string response_for_nothing();

}  // namespace bulkhead::shim
