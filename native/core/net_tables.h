// What a network namespace holds: links, addresses, routes, neighbours. Numbers are those of
// rtnetlink(7).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/netlink.h"

namespace bulkhead {

// An IPv4 or IPv6 address; size 0: none.
struct IpAddress {
  uint8_t size = 0;
  uint8_t bytes[16] = {};

  bool empty() const { return size == 0; }
  bool operator==(const IpAddress& other) const;
  std::span<const uint8_t> view() const { return {bytes, size}; }
  std::string text() const;  // inet_ntop(3)
  // AF_INET, AF_INET6, or AF_UNSPEC when there is none.
  uint8_t family() const;
  // Empty unless 4 or 16 bytes are given.
  static IpAddress from(std::span<const uint8_t> bytes);
};

struct NetLink {
  uint32_t index = 0;
  uint16_t type = 0;   // ARPHRD_*
  uint32_t flags = 0;  // IFF_*
  std::string name;
  std::string kind;  // "veth", "macvlan", …; empty for hardware and loopback
  std::vector<uint8_t> mac;
  uint32_t mtu = 0;
  uint32_t master = 0;  // index of the bridge or bond that it belongs to
  // ipvlan: 0 L2, 1 L3, 2 L3S; netkit: 0 L2, 1 L3; tun: 1 tun, 2 tap
  uint32_t mode = 0;
};

struct NetAddress {
  uint32_t index = 0;
  IpAddress address;
  IpAddress peer;  // when it is not the address itself
  IpAddress broadcast;
  uint8_t prefix = 0;
  uint8_t scope = 0;
  uint32_t flags = 0;  // IFA_F_*
};

struct NetRoute {
  uint8_t family = 0;
  IpAddress destination;  // empty: the default route
  uint8_t prefix = 0;
  IpAddress gateway;
  IpAddress source;
  uint32_t index = 0;  // of the link, 0: none (blackhole …)
  uint32_t table = 0;
  uint8_t protocol = 0;
  uint8_t scope = 0;
  uint8_t type = 0;
  uint32_t priority = 0;
  uint32_t flags = 0;  // RTNH_F_ONLINK …
  uint32_t mtu = 0;    // RTAX_MTU
  bool multipath = false;
};

struct NetNeighbour {
  uint32_t index = 0;
  IpAddress address;
  std::vector<uint8_t> mac;
  uint16_t state = 0;  // NUD_*
  uint8_t flags = 0;   // NTF_*
};

// Decoders of one message body; false: not such a message, or damaged.
bool decode_link(std::span<const uint8_t> body, NetLink& out);
bool decode_address(std::span<const uint8_t> body, NetAddress& out);
bool decode_route(std::span<const uint8_t> body, NetRoute& out);
bool decode_neighbour(std::span<const uint8_t> body, NetNeighbour& out);

Result<std::vector<NetLink>> list_links(NetlinkSocket& socket);
Result<std::vector<NetAddress>> list_addresses(NetlinkSocket& socket);
Result<std::vector<NetRoute>> list_routes(NetlinkSocket& socket);
Result<std::vector<NetNeighbour>> list_neighbours(NetlinkSocket& socket);

}  // namespace bulkhead
