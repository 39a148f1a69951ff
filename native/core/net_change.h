// Changes to a network namespace. The netlink socket says which one: that of the thread that opened
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/fd.h"
#include "core/net_tables.h"
#include "core/netlink.h"

namespace bulkhead {

struct LinkChange {
  std::optional<std::string_view> name;
  std::optional<uint32_t> mtu;
  std::optional<bool> up;
  // No address of its own that nobody asked for (IPv6 link-local, and what asks for routers).
  bool no_own_address = false;
};
Status change_link(NetlinkSocket& socket, uint32_t index, const LinkChange& change);

// Each replaces one that is there already.
Status set_address(NetlinkSocket& socket, const NetAddress& address);
Status set_route(NetlinkSocket& socket, const NetRoute& route);
Status set_neighbour(NetlinkSocket& socket, const NetNeighbour& neighbour);

// Everything that arrives at one link leaves by another, before anything else of the kernel sees it
// (tc(8): ingress, u32 match all, mirred egress redirect). Replaces a redirection made before;
// others' filters stay, behind this one.
Status redirect_ingress(NetlinkSocket& socket, uint32_t from, uint32_t to);
// Takes that away, and the ingress queue with it when nothing else uses it. Idempotent.
Status stop_redirect(NetlinkSocket& socket, uint32_t from);
// Whether such a redirection is in place.
Result<bool> has_redirect(NetlinkSocket& socket, uint32_t from);

// Makes a tap in the calling thread's network namespace; it goes when the last descriptor does.
// Error EBUSY: there is one of that name, in use.
Result<UniqueFd> create_tap(std::string_view name, bool vnet_header);

}  // namespace bulkhead
