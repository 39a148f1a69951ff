#include "core/net_change.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

namespace bulkhead {

namespace {

constexpr uint16_t kReplace = NLM_F_CREATE | NLM_F_REPLACE;
// Where filters of arriving packets hang, for the qdiscs ingress and clsact alike.
constexpr uint32_t kIngressFilters = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
// Ours goes before those that tc(8) numbers by itself (from 49152 down).
constexpr uint32_t kPriority = 1;
// A qdisc that is just being taken away by another process answers EBUSY for a moment.
constexpr int kBusyTries = 5;
constexpr timespec kBusyPause{0, 10'000'000};

void put_ip(NetlinkRequest& request, uint16_t type, const IpAddress& address) {
  if (!address.empty()) request.put(type, address.view());
}

tcmsg traffic(uint32_t index, uint32_t parent) {
  tcmsg message{};
  message.tcm_ifindex = static_cast<int>(index);
  message.tcm_parent = parent;
  return message;
}

tcmsg own_filter(uint32_t index) {
  tcmsg message = traffic(index, kIngressFilters);
  message.tcm_info = TC_H_MAKE(kPriority << 16, __builtin_bswap16(ETH_P_ALL));
  return message;
}

Status add_ingress_queue(NetlinkSocket& socket, uint32_t index) {
  for (int attempt = 1;; attempt++) {
    tcmsg message = traffic(index, TC_H_INGRESS);
    message.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
    NetlinkRequest request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, message);
    request.put_string(TCA_KIND, "ingress");
    const Status done = socket.request(request);
    // Another owner's ingress or clsact takes our filter as well.
    if (done || done.error().code == EEXIST) return success();
    if (done.error().code != EBUSY || attempt == kBusyTries)
      return Error{done.error().code, "qdisc"};
    ::nanosleep(&kBusyPause, nullptr);
  }
}

// 0 or an errno.
int remove_filter(NetlinkSocket& socket, uint32_t index) {
  NetlinkRequest request(RTM_DELTFILTER, 0, own_filter(index));
  const Status done = socket.request(request);
  return done ? 0 : done.error().code;
}

void put_redirect(NetlinkRequest& request, uint32_t to) {
  const size_t options = request.begin(TCA_OPTIONS);
  // One key whose mask is all zeros: it fits every packet.
  tc_u32_sel selector{};
  selector.flags = TC_U32_TERMINAL;
  selector.nkeys = 1;
  uint8_t match[sizeof(tc_u32_sel) + sizeof(tc_u32_key)] = {};
  ::memcpy(match, &selector, sizeof(selector));
  request.put(TCA_U32_SEL, match);
  const size_t actions = request.begin(TCA_U32_ACT);
  const size_t first = request.begin(1);
  request.put_string(TCA_ACT_KIND, "mirred");
  const size_t mirred = request.begin(TCA_ACT_OPTIONS);
  tc_mirred parameters{};
  parameters.action = TC_ACT_STOLEN;
  parameters.eaction = TCA_EGRESS_REDIR;
  parameters.ifindex = to;
  request.put_value(TCA_MIRRED_PARMS, parameters);
  request.end(mirred);
  request.end(first);
  request.end(actions);
  request.end(options);
}

struct IngressUse {
  bool ours = false;
  bool others = false;
};

Result<IngressUse> ingress_use(NetlinkSocket& socket, uint32_t index) {
  IngressUse use;
  NetlinkRequest request(RTM_GETTFILTER, 0, traffic(index, kIngressFilters));
  const Status done = socket.dump(request, [&](const NetlinkMessage& message) {
    tcmsg fixed;
    std::span<const uint8_t> rest;
    if (!netlink_split(message.body, fixed, rest)) return;
    (TC_H_MAJ(fixed.tcm_info) == kPriority << 16 ? use.ours : use.others) = true;
  });
  // EINVAL: the link has no queue for arriving packets. EINTR only says that there were changes.
  if (!done && done.error().code != EINVAL && done.error().code != EINTR) return done.error();
  return use;
}

bool has_own_queue(NetlinkSocket& socket, uint32_t index) {
  bool found = false;
  NetlinkRequest request(RTM_GETQDISC, 0, traffic(index, 0));
  const Status done = socket.dump(request, [&](const NetlinkMessage& message) {
    tcmsg fixed;
    std::span<const uint8_t> rest;
    if (!netlink_split(message.body, fixed, rest)) return;
    if (fixed.tcm_ifindex != static_cast<int>(index)) return;
    NetlinkAttributes attributes(rest);
    for (NetlinkAttribute attribute; attributes.next(attribute);) {
      if (attribute.type == TCA_KIND) found = found || attribute.text() == "ingress";
    }
  });
  return done.ok() && found;
}

}  // namespace

Status change_link(NetlinkSocket& socket, uint32_t index, const LinkChange& change) {
  ifinfomsg fixed{};
  fixed.ifi_index = static_cast<int>(index);
  if (change.up) {
    fixed.ifi_flags = *change.up ? IFF_UP : 0;
    fixed.ifi_change = IFF_UP;
  }
  NetlinkRequest request(RTM_NEWLINK, 0, fixed);
  if (change.name) request.put_string(IFLA_IFNAME, *change.name);
  if (change.mtu) request.put_u32(IFLA_MTU, *change.mtu);
  if (!change.no_own_address) return socket.request(request);
  const size_t families = request.begin(IFLA_AF_SPEC);
  const size_t inet6 = request.begin(AF_INET6);
  request.put_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  request.end(inet6);
  request.end(families);
  const Status done = socket.request(request);
  // The kernel has no IPv6, or it is off: then there is nothing to keep away either.
  if (done || (done.error().code != EAFNOSUPPORT && done.error().code != EOPNOTSUPP)) return done;
  LinkChange rest = change;
  rest.no_own_address = false;
  return change_link(socket, index, rest);
}

Status set_address(NetlinkSocket& socket, const NetAddress& address) {
  ifaddrmsg fixed{};
  fixed.ifa_family = address.address.family();
  fixed.ifa_prefixlen = address.prefix;
  fixed.ifa_scope = address.scope;
  fixed.ifa_index = address.index;
  NetlinkRequest request(RTM_NEWADDR, kReplace, fixed);
  put_ip(request, IFA_LOCAL, address.address);
  put_ip(request, IFA_ADDRESS, address.peer.empty() ? address.address : address.peer);
  put_ip(request, IFA_BROADCAST, address.broadcast);
  request.put_u32(IFA_FLAGS, address.flags);
  return socket.request(request);
}

Status set_route(NetlinkSocket& socket, const NetRoute& route) {
  rtmsg fixed{};
  fixed.rtm_family = route.family;
  fixed.rtm_dst_len = route.prefix;
  fixed.rtm_table =
      route.table < 256 ? static_cast<uint8_t>(route.table) : uint8_t{RT_TABLE_UNSPEC};
  fixed.rtm_protocol = route.protocol;
  fixed.rtm_scope = route.scope;
  fixed.rtm_type = route.type;
  fixed.rtm_flags = route.flags;
  NetlinkRequest request(RTM_NEWROUTE, kReplace, fixed);
  put_ip(request, RTA_DST, route.destination);
  if (!route.gateway.empty() && route.gateway.family() != route.family) {
    uint8_t via[18] = {};  // struct rtvia: family in the host's order, address
    const uint16_t family = route.gateway.family();
    ::memcpy(via, &family, sizeof(family));
    ::memcpy(via + sizeof(family), route.gateway.bytes, route.gateway.size);
    request.put(RTA_VIA, {via, sizeof(family) + route.gateway.size});
  } else {
    put_ip(request, RTA_GATEWAY, route.gateway);
  }
  put_ip(request, RTA_PREFSRC, route.source);
  if (route.index != 0) request.put_u32(RTA_OIF, route.index);
  request.put_u32(RTA_TABLE, route.table);
  if (route.priority != 0) request.put_u32(RTA_PRIORITY, route.priority);
  if (route.mtu != 0) {
    const size_t metrics = request.begin(RTA_METRICS);
    request.put_u32(RTAX_MTU, route.mtu);
    request.end(metrics);
  }
  return socket.request(request);
}

Status set_neighbour(NetlinkSocket& socket, const NetNeighbour& neighbour) {
  ndmsg fixed{};
  fixed.ndm_family = neighbour.address.family();
  fixed.ndm_ifindex = static_cast<int>(neighbour.index);
  fixed.ndm_state = neighbour.state;
  fixed.ndm_flags = neighbour.flags;
  NetlinkRequest request(RTM_NEWNEIGH, kReplace, fixed);
  put_ip(request, NDA_DST, neighbour.address);
  if (!neighbour.mac.empty()) request.put(NDA_LLADDR, neighbour.mac);
  return socket.request(request);
}

Status redirect_ingress(NetlinkSocket& socket, uint32_t from, uint32_t to) {
  if (Status queue = add_ingress_queue(socket, from); !queue) return queue;
  // Of a run before, perhaps towards a link that is gone. ENOENT, EINVAL: there is none.
  remove_filter(socket, from);
  NetlinkRequest request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, own_filter(from));
  request.put_string(TCA_KIND, "u32");
  put_redirect(request, to);
  const Status done = socket.request(request);
  return done ? success() : Status(Error{done.error().code, "filter"});
}

Status stop_redirect(NetlinkSocket& socket, uint32_t from) {
  const int error = remove_filter(socket, from);
  if (error == ENODEV) return success();
  if (error != 0 && error != ENOENT && error != EINVAL) return Error{error, "filter"};
  const Result<IngressUse> use = ingress_use(socket, from);
  if (!use) return Error{use.error().code, "filter"};
  if (use.value().others || !has_own_queue(socket, from)) return success();
  tcmsg message = traffic(from, TC_H_INGRESS);
  message.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
  NetlinkRequest request(RTM_DELQDISC, 0, message);
  request.put_string(TCA_KIND, "ingress");
  const Status done = socket.request(request);
  if (done || done.error().code == ENOENT || done.error().code == EINVAL) return success();
  return Error{done.error().code, "qdisc"};
}

Result<bool> has_redirect(NetlinkSocket& socket, uint32_t from) {
  const Result<IngressUse> use = ingress_use(socket, from);
  if (!use) return use.error();
  return use.value().ours;
}

Result<UniqueFd> create_tap(std::string_view name, bool vnet_header) {
  if (name.empty() || name.size() >= IFNAMSIZ) return Error{EINVAL, "tap name"};
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tap) return last_error("open /dev/net/tun");
  ifreq request{};
  ::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags =
      static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | (vnet_header ? IFF_VNET_HDR : 0));
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) return last_error("TUNSETIFF");
  return tap;
}

}  // namespace bulkhead
