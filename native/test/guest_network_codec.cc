// The agent's network call, in a network namespace of the test's own.
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <protozero/pbf_writer.hpp>
#include <thread>

#include "agent/network.h"
#include "core/net_change.h"
#include "test/check.h"

namespace bulkhead::test {

namespace {

using protozero::pbf_writer;

const std::string kMac("\x02\x00\x00\x00\x00\x01", 6);
const std::string kOtherMac("\x02\x00\x00\x00\x00\x02", 6);

void add_dummy(const std::string& name, const std::string& mac) {
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
  request.put_string(IFLA_IFNAME, name);
  request.put(IFLA_ADDRESS, {reinterpret_cast<const uint8_t*>(mac.data()), mac.size()});
  const size_t info = request.begin(IFLA_LINKINFO);
  request.put_string(IFLA_INFO_KIND, "veth");
  request.end(info);
  REQUIRE(socket->request(request).ok());
}

void put(pbf_writer& to, uint32_t tag, const std::string& bytes) {
  to.add_bytes(tag, bytes);
}

void add_interface(pbf_writer& setup, const std::string& mac, const std::string& name,
                   std::initializer_list<std::pair<std::string, uint32_t>> addresses,
                   uint32_t mtu = 0) {
  pbf_writer interface(setup, 1);
  put(interface, 1, mac);
  put(interface, 2, name);
  interface.add_uint32(3, mtu);
  for (const auto& [address, prefix] : addresses) {
    pbf_writer one(interface, 4);
    put(one, 1, address);
    one.add_uint32(2, prefix);
    if (address.size() == 16) one.add_uint32(6, IFA_F_NODAD);
  }
}

void add_route(pbf_writer& setup, const std::string& device, const std::string& destination,
               uint32_t prefix, const std::string& gateway, uint32_t scope = 0) {
  pbf_writer route(setup, 2);
  route.add_uint32(1, gateway.size() == 16 || destination.size() == 16 ? AF_INET6 : AF_INET);
  put(route, 2, destination);
  route.add_uint32(3, prefix);
  put(route, 4, gateway);
  put(route, 6, device);
  route.add_uint32(7, RT_TABLE_MAIN);
  route.add_uint32(8, RTPROT_BOOT);
  route.add_uint32(9, scope);
  route.add_uint32(10, RTN_UNICAST);
}

const std::string kGateway4("\xa9\xfe\x01\x01", 4);
const std::string kNet4("\x0a\x02\x00\x00", 4);
const std::string kHost4("\x0a\x00\x00\x09", 4);

std::string address6(char last) {
  std::string address("\xfd\x00", 2);
  address.resize(16);
  address[15] = last;
  return address;
}

std::string full_setup(uint32_t deadline_ms) {
  std::string bytes;
  pbf_writer setup(bytes);
  add_interface(setup, kMac, "eth0", {{kHost4, 32}, {address6(9), 64}}, 1450);
  add_interface(setup, kOtherMac, "eth1", {});
  // Each before what it needs.
  add_route(setup, "eth0", kNet4, 16, kGateway4);
  add_route(setup, "eth0", "", 0, kGateway4);
  add_route(setup, "eth0", kGateway4, 32, "", RT_SCOPE_LINK);
  add_route(setup, "eth0", "", 0, address6(1));
  {
    pbf_writer neighbour(setup, 3);
    put(neighbour, 1, "eth0");
    put(neighbour, 2, kGateway4);
    put(neighbour, 3, kOtherMac);
    neighbour.add_uint32(4, NUD_PERMANENT);
  }
  setup.add_uint32(4, deadline_ms);
  return bytes;
}

std::span<const uint8_t> span_of(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

std::string outcome(const std::string& bytes) {
  int err = 0;
  std::string object;
  if (agent::configure_network(span_of(bytes), err, object)) return "done";
  return std::to_string(err) + " " + object;
}

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

template <class Row>
std::vector<Row> rows(Result<std::vector<Row>> result) {
  CHECK(result.ok());
  return result.take();
}

void configures() {
  // The kernel's names are the wrong way round.
  add_dummy("eth1", kMac);
  add_dummy("eth0", kOtherMac);
  for (int round = 0; round < 2; round++) CHECK_EQ(outcome(full_setup(0)), "done");
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  REQUIRE(socket.ok());
  uint32_t index = 0;
  for (const NetLink& link : rows(list_links(*socket))) {
    if (link.name != "eth0") continue;
    index = link.index;
    CHECK(std::string(link.mac.begin(), link.mac.end()) == kMac);
    CHECK_EQ(link.mtu, 1450u);
  }
  std::string addresses;
  for (const NetAddress& one : rows(list_addresses(*socket))) {
    if (one.index == index) addresses += one.address.text() + " ";
  }
  CHECK_EQ(addresses, "10.0.0.9 fd00::9 ");
  std::string routes;
  for (const NetRoute& one : rows(list_routes(*socket))) {
    if (one.index != index || one.table != RT_TABLE_MAIN || one.protocol != RTPROT_BOOT) continue;
    routes +=
        one.destination.text() + "/" + std::to_string(one.prefix) + ">" + one.gateway.text() + " ";
  }
  CHECK_EQ(routes, "/0>169.254.1.1 10.2.0.0/16>169.254.1.1 169.254.1.1/32> /0>fd00::1 ");
  int neighbours = 0;
  for (const NetNeighbour& one : rows(list_neighbours(*socket))) {
    if (one.index == index && one.state == NUD_PERMANENT) neighbours++;
  }
  CHECK_EQ(neighbours, 1);
}

void waits() {
  add_dummy("eth7", kMac);
  CHECK_EQ(outcome(full_setup(50)), std::to_string(ENODEV) + " interface 02:00:00:00:00:02");
  std::thread late([] {
    ::usleep(100'000);
    add_dummy("eth8", kOtherMac);
  });
  CHECK_EQ(outcome(full_setup(60000)), "done");
  late.join();
}

void refuses() {
  add_dummy("x0", kMac);
  std::string bytes;
  {
    pbf_writer setup(bytes);
    add_interface(setup, kMac, "eth0", {});
    add_route(setup, "eth0", "", 0, kGateway4);
  }
  CHECK_EQ(outcome(bytes), std::to_string(ENETUNREACH) +
                               " route default via 169.254.1.1 of eth0 "
                               "(Nexthop has invalid gateway)");
  bytes.clear();
  {
    pbf_writer setup(bytes);
    add_route(setup, "eth5", "", 0, kGateway4);
  }
  CHECK_EQ(outcome(bytes), std::to_string(ENODEV) + " route default via 169.254.1.1 of eth5");
  bytes.clear();
  {
    pbf_writer setup(bytes);
    add_interface(setup, kMac, "eth0", {}, 7);
  }
  CHECK(outcome(bytes).starts_with(std::to_string(EINVAL) + " interface eth0"));
}

}  // namespace

TEST(guest_network_is_configured_whole) {
  in_network(configures);
}
TEST(guest_network_waits_for_interfaces) {
  in_network(waits);
}
TEST(guest_network_says_what_was_refused) {
  in_network(refuses);
}

TEST(guest_network_decoding_is_strict) {
  agent::GuestNetwork out;
  CHECK(agent::decode_guest_network({}, out));
  const std::string whole = full_setup(1);
  CHECK(agent::decode_guest_network(span_of(whole), out));
  CHECK_EQ(out.interfaces.size(), 2u);
  CHECK(!agent::decode_guest_network(span_of(whole.substr(0, whole.size() - 1)), out));
  CHECK_EQ(outcome("\x0a\x00x"), std::to_string(EBADMSG) + " network setup");
  const auto refused = [](auto&& fill) {
    std::string bytes;
    pbf_writer setup(bytes);
    fill(setup);
    agent::GuestNetwork decoded;
    CHECK(!agent::decode_guest_network(span_of(bytes), decoded));
  };
  refused([](pbf_writer& to) { add_interface(to, kMac, "a-name-too-long-1", {}); });
  refused([](pbf_writer& to) { add_interface(to, kMac, std::string("e\0t", 3), {}); });
  refused([](pbf_writer& to) { add_interface(to, kMac, "", {}); });
  refused([](pbf_writer& to) { add_interface(to, kMac, "eth0", {{"\x01\x02\x03", 8}}); });
  refused([](pbf_writer& to) { add_interface(to, kMac, "eth0", {{kHost4, 33}}); });
  refused([](pbf_writer& to) { add_route(to, "eth0", kNet4, 129, ""); });
  refused([](pbf_writer& to) { to.add_uint32(1, 1); });
  refused([](pbf_writer& to) {
    for (int i = 0; i < 5000; i++) add_interface(to, kMac, "eth0", {});
  });
}

}  // namespace bulkhead::test
