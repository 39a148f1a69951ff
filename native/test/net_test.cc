// rtnetlink: decoding, and changes in network namespaces of the test's own.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "core/net_change.h"
#include "core/net_tables.h"
#include "test/check.h"

namespace bulkhead::test {

namespace {

// Runs the body in a process with a network namespace of its own, made by a child so that the
// test's stays.
void in_network(void (*body)()) {
  ::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(100);
    body();
    ::fflush(stdout);
    ::_exit(failures_so_far() == 0 ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
}

IpAddress v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  const uint8_t bytes[4] = {a, b, c, d};
  return IpAddress::from(bytes);
}

IpAddress v6(uint8_t last) {
  uint8_t bytes[16] = {0xfd, 0};
  bytes[15] = last;
  return IpAddress::from(bytes);
}

// A pair of links in this namespace.
Status add_veth(NetlinkSocket& socket, const char* name, const char* peer) {
  NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
  request.put_string(IFLA_IFNAME, name);
  const size_t info = request.begin(IFLA_LINKINFO);
  request.put_string(IFLA_INFO_KIND, "veth");
  const size_t data = request.begin(IFLA_INFO_DATA);
  // VETH_INFO_PEER: a struct ifinfomsg, then attributes.
  const size_t other = request.begin(1, ifinfomsg{});
  request.put_string(IFLA_IFNAME, peer);
  request.end(other);
  request.end(data);
  request.end(info);
  return socket.request(request);
}

NetLink link_named(NetlinkSocket& socket, std::string_view name) {
  const Result<std::vector<NetLink>> links = list_links(socket);
  CHECK(links.ok());
  for (const NetLink& link : links.value()) {
    if (link.name == name) return link;
  }
  return {};
}

void links_and_addresses() {
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  REQUIRE(add_veth(*socket, "a0", "b0").ok());
  NetLink a = link_named(*socket, "a0");
  CHECK_EQ(a.kind, "veth");
  CHECK_EQ(a.mac.size(), 6u);
  CHECK_EQ(a.mtu, 1500u);
  LinkChange change;
  change.name = "eth0";
  change.mtu = 9000;
  change.up = true;
  change.no_own_address = true;
  REQUIRE(change_link(*socket, a.index, change).ok());
  REQUIRE(change_link(*socket, link_named(*socket, "b0").index, LinkChange{{}, {}, true}).ok());
  a = link_named(*socket, "eth0");
  CHECK_EQ(a.mtu, 9000u);
  CHECK((a.flags & IFF_UP) != 0);

  NetAddress address;
  address.index = a.index;
  address.address = v4(10, 1, 2, 3);
  address.prefix = 24;
  address.broadcast = v4(10, 1, 2, 255);
  REQUIRE(set_address(*socket, address).ok());
  REQUIRE(set_address(*socket, address).ok());  // replaces
  address.address = v6(3);
  address.prefix = 64;
  address.broadcast = {};
  address.flags = IFA_F_NODAD;
  REQUIRE(set_address(*socket, address).ok());
  const Result<std::vector<NetAddress>> all = list_addresses(*socket);
  REQUIRE(all.ok());
  std::string found;
  for (const NetAddress& one : all.value()) {
    if (one.index != a.index) continue;
    found +=
        one.address.text() + "/" + std::to_string(one.prefix) + " " + one.broadcast.text() + ",";
    CHECK(one.peer.empty());
    CHECK((one.flags & IFA_F_TENTATIVE) == 0);
  }
  CHECK_EQ(found, "10.1.2.3/24 10.1.2.255,fd00::3/64 ,");
}

void routes_and_neighbours() {
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  REQUIRE(add_veth(*socket, "a0", "b0").ok());
  const uint32_t index = link_named(*socket, "a0").index;
  REQUIRE(change_link(*socket, index, LinkChange{{}, {}, true}).ok());
  REQUIRE(set_address(*socket, {index, v4(10, 9, 0, 2), {}, {}, 32, 0, 0}).ok());

  NetRoute route;
  route.family = AF_INET;
  route.index = index;
  route.table = RT_TABLE_MAIN;
  route.protocol = RTPROT_BOOT;
  route.type = RTN_UNICAST;
  route.gateway = v4(169, 254, 1, 1);
  // Nothing says how to reach the gateway yet.
  const Status early = set_route(*socket, route);
  CHECK_EQ(early.error().code, ENETUNREACH);
  CHECK_EQ(socket->reason(), "Nexthop has invalid gateway");
  route.flags = RTNH_F_ONLINK;
  route.mtu = 1400;
  route.priority = 7;
  REQUIRE(set_route(*socket, route).ok());
  REQUIRE(set_route(*socket, route).ok());
  NetRoute scoped;
  scoped.family = AF_INET;
  scoped.index = index;
  scoped.table = 1000;
  scoped.protocol = RTPROT_STATIC;
  scoped.type = RTN_UNICAST;
  scoped.scope = RT_SCOPE_LINK;
  scoped.destination = v4(10, 20, 0, 0);
  scoped.prefix = 16;
  scoped.source = v4(10, 9, 0, 2);
  REQUIRE(set_route(*socket, scoped).ok());

  const Result<std::vector<NetRoute>> routes = list_routes(*socket);
  REQUIRE(routes.ok());
  int seen = 0;
  for (const NetRoute& one : routes.value()) {
    if (one.gateway == route.gateway) {
      seen++;
      CHECK(one.destination.empty());
      CHECK_EQ(one.mtu, 1400u);
      CHECK_EQ(one.priority, 7u);
      CHECK((one.flags & RTNH_F_ONLINK) != 0);
      CHECK_EQ(one.index, index);
    } else if (one.table == 1000) {
      seen++;
      CHECK_EQ(one.destination.text(), "10.20.0.0");
      CHECK_EQ(one.source.text(), "10.9.0.2");
      CHECK_EQ(one.scope, RT_SCOPE_LINK);
      CHECK_EQ(one.protocol, RTPROT_STATIC);
    }
  }
  CHECK_EQ(seen, 2);

  NetNeighbour neighbour{index, v4(169, 254, 1, 1), {2, 0, 0, 0, 0, 1}, NUD_PERMANENT, 0};
  REQUIRE(set_neighbour(*socket, neighbour).ok());
  neighbour.mac[5] = 2;
  REQUIRE(set_neighbour(*socket, neighbour).ok());
  const Result<std::vector<NetNeighbour>> neighbours = list_neighbours(*socket);
  REQUIRE(neighbours.ok());
  seen = 0;
  for (const NetNeighbour& one : neighbours.value()) {
    if ((one.state & NUD_PERMANENT) == 0) continue;
    seen++;
    CHECK(one.mac == neighbour.mac);
    CHECK(one.address == neighbour.address);
  }
  CHECK_EQ(seen, 1);
}

uint64_t queues_at(NetlinkSocket& socket, uint32_t index) {
  uint64_t found = 0;
  tcmsg fixed{};
  fixed.tcm_ifindex = static_cast<int>(index);
  NetlinkRequest request(RTM_GETQDISC, 0, fixed);
  const Status done = socket.dump(request, [&](const NetlinkMessage& message) {
    tcmsg seen;
    std::span<const uint8_t> rest;
    if (!netlink_split(message.body, seen, rest)) return;
    if (seen.tcm_ifindex == static_cast<int>(index) && seen.tcm_parent == 0xfffffff1u) found++;
  });
  CHECK(done.ok());
  return found;
}

// Reads frames until one is ours: whoever has a new link says something on it by IPv6.
ssize_t next_frame(int fd, uint8_t (&got)[256]) {
  for (;;) {
    pollfd waiting{fd, POLLIN, 0};
    if (::poll(&waiting, 1, 60000) <= 0) return -1;
    const ssize_t size = ::read(fd, got, sizeof(got));
    if (size < 14 || (got[12] == 0x88 && got[13] == 0xb5)) return size;
  }
}

// A frame that enters one pair comes out of the tap, and one written to the tap comes out of the
// pair.
void redirects() {
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  REQUIRE(add_veth(*socket, "eth0", "far0").ok());
  Result<UniqueFd> tap = create_tap("tap0", false);
  REQUIRE(tap.ok());
  CHECK_EQ(create_tap("tap0", false).error().code, EBUSY);
  CHECK_EQ(create_tap("a-name-that-is-too-long", false).error().code, EINVAL);
  const NetLink eth = link_named(*socket, "eth0");
  const NetLink far = link_named(*socket, "far0");
  const NetLink device = link_named(*socket, "tap0");
  CHECK_EQ(device.kind, "tun");
  CHECK_EQ(device.mode, 2u);
  for (const NetLink& link : {eth, far, device}) {
    LinkChange up;
    up.up = true;
    up.no_own_address = true;
    REQUIRE(change_link(*socket, link.index, up).ok());
  }
  CHECK(!has_redirect(*socket, eth.index).value());
  for (int round = 0; round < 2; round++) {
    REQUIRE(redirect_ingress(*socket, eth.index, device.index).ok());
    REQUIRE(redirect_ingress(*socket, device.index, eth.index).ok());
  }
  CHECK(has_redirect(*socket, eth.index).value());

  UniqueFd wire(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = __builtin_bswap16(0x88b5);
  at.sll_ifindex = static_cast<int>(far.index);
  REQUIRE(::bind(wire.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0);
  uint8_t frame[60] = {};
  std::copy(eth.mac.begin(), eth.mac.end(), frame);
  std::copy(far.mac.begin(), far.mac.end(), frame + 6);
  frame[12] = 0x88;
  frame[13] = 0xb5;
  frame[20] = 42;
  REQUIRE(::send(wire.get(), frame, sizeof(frame), 0) == static_cast<ssize_t>(sizeof(frame)));
  uint8_t got[256];
  CHECK_EQ(next_frame(tap->get(), got), static_cast<ssize_t>(sizeof(frame)));
  CHECK(::memcmp(frame, got, sizeof(frame)) == 0);
  frame[20] = 43;
  CHECK_EQ(::write(tap->get(), frame, sizeof(frame)), static_cast<ssize_t>(sizeof(frame)));
  CHECK_EQ(next_frame(wire.get(), got), static_cast<ssize_t>(sizeof(frame)));
  CHECK_EQ(got[20], 43);

  CHECK_EQ(queues_at(*socket, eth.index), 1u);
  REQUIRE(stop_redirect(*socket, eth.index).ok());
  REQUIRE(stop_redirect(*socket, eth.index).ok());
  CHECK_EQ(queues_at(*socket, eth.index), 0u);
  tap->reset();
  CHECK_EQ(link_named(*socket, "tap0").index, 0u);
  REQUIRE(stop_redirect(*socket, device.index).ok());
}

// Somebody else's clsact queue stays, and takes our filter.
void others_queue_stays() {
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  REQUIRE(add_veth(*socket, "eth0", "far0").ok());
  const uint32_t eth = link_named(*socket, "eth0").index;
  const uint32_t far = link_named(*socket, "far0").index;
  tcmsg fixed{};
  fixed.tcm_ifindex = static_cast<int>(eth);
  fixed.tcm_parent = 0xfffffff1u;
  fixed.tcm_handle = 0xffff0000u;
  NetlinkRequest clsact(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, fixed);
  clsact.put_string(1, "clsact");
  REQUIRE(socket->request(clsact).ok());
  REQUIRE(redirect_ingress(*socket, eth, far).ok());
  CHECK(has_redirect(*socket, eth).value());
  REQUIRE(stop_redirect(*socket, eth).ok());
  CHECK(!has_redirect(*socket, eth).value());
  CHECK_EQ(queues_at(*socket, eth), 1u);
  CHECK_EQ(redirect_ingress(*socket, 4000, far).error().code, ENODEV);
}

}  // namespace

TEST(net_links_and_addresses) {
  in_network(links_and_addresses);
}
TEST(net_routes_and_neighbours) {
  in_network(routes_and_neighbours);
}
TEST(net_redirects_between_link_and_tap) {
  in_network(redirects);
}
TEST(net_leaves_queues_of_others) {
  in_network(others_queue_stays);
}

// Bytes of any kind are decoded without reading past their end (the sanitizers watch).
TEST(net_decodes_damaged_messages) {
  std::mt19937 random(7);
  NetAddress address;
  address.address = v4(1, 2, 3, 4);
  NetlinkRequest request(RTM_NEWLINK, 0, ifinfomsg{});
  request.put_string(IFLA_IFNAME, "eth0");
  const size_t info = request.begin(IFLA_LINKINFO);
  request.put_string(IFLA_INFO_KIND, "ipvlan");
  const size_t data = request.begin(IFLA_INFO_DATA);
  request.put_u32(IFLA_IPVLAN_MODE, 1);
  request.end(data);
  request.end(info);
  const std::span<const uint8_t> whole = request.finish(1, 0);
  for (int round = 0; round < 20000; round++) {
    std::vector<uint8_t> bytes(whole.begin(), whole.end());
    bytes.resize(random() % (bytes.size() + 1));
    for (unsigned i = 0; i < random() % 4 && !bytes.empty(); i++) {
      bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    }
    std::span<const uint8_t> rest(bytes);
    for (NetlinkMessage message; netlink_next(rest, message);) {
      NetLink link;
      NetRoute route;
      NetNeighbour neighbour;
      decode_link(message.body, link);
      decode_address(message.body, address);
      decode_route(message.body, route);
      decode_neighbour(message.body, neighbour);
    }
  }
  std::span<const uint8_t> rest = whole;
  NetlinkMessage message;
  REQUIRE(netlink_next(rest, message));
  NetLink link;
  CHECK(!decode_link(message.body, link));  // index 0
  CHECK_EQ(link.kind, "ipvlan");
  CHECK_EQ(link.mode, 1u);
  CHECK_EQ(link.name, "eth0");
}

}  // namespace bulkhead::test
