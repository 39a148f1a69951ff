#include "agent/network.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <time.h>

#include <algorithm>
#include <cstdio>

#include "core/net_change.h"

namespace bulkhead::agent {

namespace {

constexpr uint32_t kMaxDeadlineMs = 60'000;

int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

std::string mac_text(const std::vector<uint8_t>& mac) {
  std::string text;
  for (const uint8_t byte : mac) {
    char part[4];
    ::snprintf(part, sizeof(part), ":%02x", byte);
    text.append(part);
  }
  return text.empty() ? text : text.substr(1);
}

std::string route_text(const GuestRoute& wanted) {
  const NetRoute& route = wanted.route;
  std::string text = "route ";
  text += route.destination.empty() ? "default"
                                    : route.destination.text() + "/" + std::to_string(route.prefix);
  if (!route.gateway.empty()) text += " via " + route.gateway.text();
  if (!wanted.device.empty()) text += " of " + wanted.device;
  return text;
}

// One configuration as it is carried out. Each step answers false after it has filled err and
// object.
class Configuration {
 public:
  Configuration(GuestNetwork wanted, NetlinkSocket socket, int& err, std::string& object)
      : wanted_(std::move(wanted)), socket_(std::move(socket)), err_(err), object_(object) {}

  bool run(NetlinkSocket& news) {
    if (!bring_up_loopback() || !wait_for_links(news) || !rename_links()) return false;
    for (const GuestInterface& interface : wanted_.interfaces) {
      if (!configure(interface)) return false;
    }
    return add_routes() && add_neighbours();
  }

 private:
  bool fail(int code, std::string object) {
    err_ = code;
    object_ = std::move(object);
    if (!socket_.reason().empty()) object_ += " (" + socket_.reason() + ")";
    return false;
  }
  bool check(const Status& done, const std::string& object) {
    return done.ok() || fail(done.error().code, object);
  }

  bool bring_up_loopback() {
    LinkChange up;
    up.up = true;
    return check(change_link(socket_, 1, up), "interface lo");
  }

  bool look() {
    Result<std::vector<NetLink>> links = list_links(socket_);
    if (!links) return fail(links.error().code, "interfaces");
    links_ = links.take();
    return true;
  }
  // What stands upon a link (a VLAN, a bridge) often has its address; such a one has a kind.
  const NetLink* by_mac(const std::vector<uint8_t>& mac) const {
    const NetLink* found = nullptr;
    for (const NetLink& link : links_) {
      if (link.mac != mac) continue;
      if (link.kind.empty()) return &link;
      if (found == nullptr) found = &link;
    }
    return found;
  }
  const NetLink* by_name(std::string_view name) const {
    for (const NetLink& link : links_) {
      if (link.name == name) return &link;
    }
    return nullptr;
  }

  bool wait_for_links(NetlinkSocket& news) {
    const int64_t end = now_ms() + std::min(wanted_.deadline_ms, kMaxDeadlineMs);
    for (;;) {
      if (!look()) return false;
      const auto missing =
          std::find_if(wanted_.interfaces.begin(), wanted_.interfaces.end(),
                       [&](const GuestInterface& one) { return by_mac(one.mac) == nullptr; });
      if (missing == wanted_.interfaces.end()) return true;
      const int64_t left = end - now_ms();
      if (left <= 0) return fail(ENODEV, "interface " + mac_text(missing->mac));
      news.wait(static_cast<int>(left));
    }
  }

  // Names are given in two rounds when a wanted one is taken: the kernel numbers by arrival.
  bool rename_links() {
    for (const GuestInterface& interface : wanted_.interfaces) {
      const NetLink* holder = by_name(interface.name);
      if (holder == nullptr || holder->mac == interface.mac) continue;
      if (!rename(*holder, "bulkhead" + std::to_string(holder->index))) return false;
    }
    if (!look()) return false;
    for (const GuestInterface& interface : wanted_.interfaces) {
      const NetLink* link = by_mac(interface.mac);
      if (link == nullptr) return fail(ENODEV, "interface " + mac_text(interface.mac));
      if (link->name != interface.name && !rename(*link, interface.name)) return false;
    }
    return look();
  }
  bool rename(const NetLink& link, const std::string& name) {
    LinkChange change;
    change.name = name;
    if ((link.flags & IFF_UP) != 0) {
      LinkChange down;
      down.up = false;
      if (!check(change_link(socket_, link.index, down), "interface " + link.name)) return false;
    }
    return check(change_link(socket_, link.index, change),
                 "name " + name + " of interface " + mac_text(link.mac));
  }

  bool configure(const GuestInterface& interface) {
    const NetLink* link = by_name(interface.name);
    if (link == nullptr) return fail(ENODEV, "interface " + interface.name);
    LinkChange change;
    if (interface.mtu != 0 && interface.mtu != link->mtu) change.mtu = interface.mtu;
    // The addresses are those of the pod's interface, the link-local ones included.
    change.no_own_address = true;
    const std::string text = "interface " + interface.name;
    if (!check(change_link(socket_, link->index, change), text)) return false;
    change = LinkChange{};
    change.up = !interface.down;
    if (!check(change_link(socket_, link->index, change), text)) return false;
    for (NetAddress address : interface.addresses) {
      address.index = link->index;
      if (!check(set_address(socket_, address), "address " + address.address.text() + "/" +
                                                    std::to_string(address.prefix) + " of " +
                                                    interface.name)) {
        return false;
      }
    }
    return true;
  }

  // A gateway is reachable only by a route that was added before: what is refused is tried again
  // after the others, as long as any of them is accepted.
  bool add_routes() {
    std::vector<GuestRoute> waiting = wanted_.routes;
    for (GuestRoute& one : waiting) {
      if (one.device.empty()) continue;
      const NetLink* link = by_name(one.device);
      if (link == nullptr) return fail(ENODEV, route_text(one));
      one.route.index = link->index;
    }
    while (!waiting.empty()) {
      std::vector<GuestRoute> refused;
      int code = 0;
      std::string reason;
      for (const GuestRoute& one : waiting) {
        const Status done = set_route(socket_, one.route);
        if (done) continue;
        if (refused.empty()) code = done.error().code;
        if (refused.empty()) reason = socket_.reason();
        refused.push_back(one);
      }
      if (refused.size() == waiting.size()) {
        err_ = code;
        object_ = route_text(refused.front()) + (reason.empty() ? "" : " (" + reason + ")");
        return false;
      }
      waiting = std::move(refused);
    }
    return true;
  }

  bool add_neighbours() {
    for (GuestNeighbour one : wanted_.neighbours) {
      const std::string text = "neighbour " + one.neighbour.address.text() + " of " + one.device;
      const NetLink* link = by_name(one.device);
      if (link == nullptr) return fail(ENODEV, text);
      one.neighbour.index = link->index;
      if (!check(set_neighbour(socket_, one.neighbour), text)) return false;
    }
    return true;
  }

  GuestNetwork wanted_;
  NetlinkSocket socket_;
  int& err_;
  std::string& object_;
  std::vector<NetLink> links_;
};

}  // namespace

bool configure_network(std::span<const uint8_t> encoded, int& err, std::string& object) {
  GuestNetwork wanted;
  if (!decode_guest_network(encoded, wanted)) {
    err = EBADMSG;
    object = "network setup";
    return false;
  }
  // News first, so that a link that comes after the first look is heard of.
  Result<NetlinkSocket> news = NetlinkSocket::open(RTMGRP_LINK);
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  if (!news || !socket) {
    err = (news ? socket : news).error().code;
    object = "rtnetlink";
    return false;
  }
  return Configuration(std::move(wanted), socket.take(), err, object).run(*news);
}

}  // namespace bulkhead::agent
