// The guest's network as the host describes it (proto/agent_network.proto).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/net_tables.h"

namespace bulkhead::agent {

struct GuestInterface {
  std::vector<uint8_t> mac;
  std::string name;
  uint32_t mtu = 0;
  std::vector<NetAddress> addresses;  // index is not set yet
  bool down = false;
};
struct GuestRoute {
  NetRoute route;      // index is not set yet
  std::string device;  // empty: none
};
struct GuestNeighbour {
  NetNeighbour neighbour;  // index is not set yet
  std::string device;
};
struct GuestNetwork {
  std::vector<GuestInterface> interfaces;
  std::vector<GuestRoute> routes;
  std::vector<GuestNeighbour> neighbours;
  uint32_t deadline_ms = 0;
};

// An encoded NetworkSetup. False: malformed, or a value that no kernel takes.
bool decode_guest_network(std::span<const uint8_t> bytes, GuestNetwork& out);

// Waits for the interfaces by their hardware addresses, then names and configures them, adds
// addresses, routes (each after what it depends on) and neighbours. What is there already is
// replaced. False: `err` is the errno, `object` what it was ("interface 02:…", "route 10.0.0.0/8
// …") and the kernel's own words, when it had some. Blocks, up to the setup's deadline: call it
// where that does not matter.
bool configure_network(std::span<const uint8_t> encoded, int& err, std::string& object);

}  // namespace bulkhead::agent
