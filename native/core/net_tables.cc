#include "core/net_tables.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

namespace bulkhead {

namespace {

// Since Linux 6.7; Debian 12's headers are older. enum: unspec, peer info, primary, policy, peer
// policy, mode.
constexpr uint16_t kNetkitMode = 5;  // IFLA_NETKIT_MODE
// A table that changes while it is read is read again, this often.
constexpr int kTornReads = 10;

uint16_t mode_attribute(const std::string& kind) {
  if (kind == "ipvlan") return IFLA_IPVLAN_MODE;
  if (kind == "tun") return IFLA_TUN_TYPE;
  return kind == "netkit" ? kNetkitMode : 0;
}

uint32_t number(const NetlinkAttribute& attribute) {
  if (const auto byte = attribute.as<uint8_t>()) return *byte;
  if (const auto half = attribute.as<uint16_t>()) return *half;
  return attribute.as<uint32_t>().value_or(0);
}

void decode_link_info(std::span<const uint8_t> bytes, NetLink& out) {
  std::span<const uint8_t> data;
  NetlinkAttributes info(bytes);
  for (NetlinkAttribute attribute; info.next(attribute);) {
    if (attribute.type == IFLA_INFO_KIND) out.kind = attribute.text();
    if (attribute.type == IFLA_INFO_DATA) data = attribute.data;
  }
  const uint16_t wanted = mode_attribute(out.kind);
  NetlinkAttributes details(data);
  for (NetlinkAttribute attribute; wanted != 0 && details.next(attribute);) {
    if (attribute.type == wanted) out.mode = number(attribute);
  }
}

uint32_t decode_route_mtu(std::span<const uint8_t> bytes) {
  NetlinkAttributes metrics(bytes);
  for (NetlinkAttribute attribute; metrics.next(attribute);) {
    if (attribute.type == RTAX_MTU) return attribute.as<uint32_t>().value_or(0);
  }
  return 0;
}

// Reads a whole table, again when it changed meanwhile.
template <class Row, class Fixed>
Result<std::vector<Row>> list(NetlinkSocket& socket, uint16_t get, uint16_t answer,
                              const Fixed& fixed, bool (*decode)(std::span<const uint8_t>, Row&)) {
  for (int attempt = 1;; attempt++) {
    std::vector<Row> rows;
    NetlinkRequest request(get, 0, fixed);
    if constexpr (std::is_same_v<Fixed, ifinfomsg>) {
      request.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    }
    const Status done = socket.dump(request, [&](const NetlinkMessage& message) {
      Row row;
      if (message.type == answer && decode(message.body, row)) rows.push_back(std::move(row));
    });
    if (done) return rows;
    if (done.error().code != EINTR || attempt == kTornReads) return done.error();
  }
}

}  // namespace

bool IpAddress::operator==(const IpAddress& other) const {
  return size == other.size && ::memcmp(bytes, other.bytes, size) == 0;
}

std::string IpAddress::text() const {
  char buffer[INET6_ADDRSTRLEN] = "";
  if (size != 0) ::inet_ntop(family(), bytes, buffer, sizeof(buffer));
  return buffer;
}

uint8_t IpAddress::family() const {
  if (size == 4) return AF_INET;
  return size == 16 ? AF_INET6 : AF_UNSPEC;
}

IpAddress IpAddress::from(std::span<const uint8_t> bytes) {
  IpAddress address;
  if (bytes.size() != 4 && bytes.size() != 16) return address;
  address.size = static_cast<uint8_t>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), address.bytes);
  return address;
}

bool decode_link(std::span<const uint8_t> body, NetLink& out) {
  ifinfomsg fixed;
  std::span<const uint8_t> rest;
  if (!netlink_split(body, fixed, rest)) return false;
  out = NetLink{};
  out.index = static_cast<uint32_t>(fixed.ifi_index);
  out.type = fixed.ifi_type;
  out.flags = fixed.ifi_flags;
  NetlinkAttributes attributes(rest);
  for (NetlinkAttribute attribute; attributes.next(attribute);) {
    switch (attribute.type) {
      case IFLA_IFNAME:
        out.name = attribute.text();
        break;
      case IFLA_ADDRESS:
        out.mac.assign(attribute.data.begin(), attribute.data.end());
        break;
      case IFLA_MTU:
        out.mtu = number(attribute);
        break;
      case IFLA_MASTER:
        out.master = number(attribute);
        break;
      case IFLA_LINKINFO:
        decode_link_info(attribute.data, out);
        break;
      default:
        break;
    }
  }
  return fixed.ifi_index > 0 && !out.name.empty();
}

bool decode_address(std::span<const uint8_t> body, NetAddress& out) {
  ifaddrmsg fixed;
  std::span<const uint8_t> rest;
  if (!netlink_split(body, fixed, rest)) return false;
  out = NetAddress{};
  out.index = fixed.ifa_index;
  out.prefix = fixed.ifa_prefixlen;
  out.scope = fixed.ifa_scope;
  out.flags = fixed.ifa_flags;
  IpAddress local;
  IpAddress address;
  NetlinkAttributes attributes(rest);
  for (NetlinkAttribute attribute; attributes.next(attribute);) {
    if (attribute.type == IFA_LOCAL) local = IpAddress::from(attribute.data);
    if (attribute.type == IFA_ADDRESS) address = IpAddress::from(attribute.data);
    if (attribute.type == IFA_BROADCAST) out.broadcast = IpAddress::from(attribute.data);
    if (attribute.type == IFA_FLAGS) out.flags = number(attribute);
  }
  // rtnetlink(7): IFA_ADDRESS is the peer's on a point-to-point link, the own one elsewhere.
  out.address = local.empty() ? address : local;
  if (!(address == out.address)) out.peer = address;
  return !out.address.empty() && out.address.family() == fixed.ifa_family;
}

bool decode_route(std::span<const uint8_t> body, NetRoute& out) {
  rtmsg fixed;
  std::span<const uint8_t> rest;
  if (!netlink_split(body, fixed, rest)) return false;
  if (fixed.rtm_family != AF_INET && fixed.rtm_family != AF_INET6) return false;
  out = NetRoute{};
  out.family = fixed.rtm_family;
  out.prefix = fixed.rtm_dst_len;
  out.table = fixed.rtm_table;
  out.protocol = fixed.rtm_protocol;
  out.scope = fixed.rtm_scope;
  out.type = fixed.rtm_type;
  out.flags = fixed.rtm_flags;
  NetlinkAttributes attributes(rest);
  for (NetlinkAttribute attribute; attributes.next(attribute);) {
    switch (attribute.type) {
      case RTA_DST:
        out.destination = IpAddress::from(attribute.data);
        break;
      case RTA_GATEWAY:
      case RTA_VIA:
        // RTA_VIA (an IPv6 gateway of an IPv4 route) starts with its family.
        out.gateway = IpAddress::from(attribute.data.subspan(
            attribute.type == RTA_VIA && attribute.data.size() >= 2 ? 2 : 0));
        break;
      case RTA_PREFSRC:
        out.source = IpAddress::from(attribute.data);
        break;
      case RTA_OIF:
        out.index = number(attribute);
        break;
      case RTA_TABLE:
        out.table = number(attribute);
        break;
      case RTA_PRIORITY:
        out.priority = number(attribute);
        break;
      case RTA_METRICS:
        out.mtu = decode_route_mtu(attribute.data);
        break;
      case RTA_MULTIPATH:
        out.multipath = true;
        break;
      default:
        break;
    }
  }
  return true;
}

bool decode_neighbour(std::span<const uint8_t> body, NetNeighbour& out) {
  ndmsg fixed;
  std::span<const uint8_t> rest;
  if (!netlink_split(body, fixed, rest)) return false;
  out = NetNeighbour{};
  out.index = static_cast<uint32_t>(fixed.ndm_ifindex);
  out.state = fixed.ndm_state;
  out.flags = fixed.ndm_flags;
  NetlinkAttributes attributes(rest);
  for (NetlinkAttribute attribute; attributes.next(attribute);) {
    if (attribute.type == NDA_DST) out.address = IpAddress::from(attribute.data);
    if (attribute.type == NDA_LLADDR) out.mac.assign(attribute.data.begin(), attribute.data.end());
  }
  return !out.address.empty() && out.address.family() == fixed.ndm_family;
}

Result<std::vector<NetLink>> list_links(NetlinkSocket& socket) {
  return list(socket, RTM_GETLINK, RTM_NEWLINK, ifinfomsg{}, decode_link);
}

Result<std::vector<NetAddress>> list_addresses(NetlinkSocket& socket) {
  return list(socket, RTM_GETADDR, RTM_NEWADDR, ifaddrmsg{}, decode_address);
}

Result<std::vector<NetRoute>> list_routes(NetlinkSocket& socket) {
  return list(socket, RTM_GETROUTE, RTM_NEWROUTE, rtmsg{}, decode_route);
}

Result<std::vector<NetNeighbour>> list_neighbours(NetlinkSocket& socket) {
  return list(socket, RTM_GETNEIGH, RTM_NEWNEIGH, ndmsg{}, decode_neighbour);
}

}  // namespace bulkhead
