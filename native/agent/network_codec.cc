#include <protozero/pbf_reader.hpp>

#include "agent/network.h"

namespace bulkhead::agent {

namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;

// More than any pod has; a host that sends more is broken.
constexpr size_t kMaxRows = 4096;
constexpr size_t kMaxName = 15;  // IFNAMSIZ less its NUL
constexpr size_t kMaxMac = 20;   // InfiniBand's; the longest the kernel's tables take is 32

struct Malformed {};

uint32_t number(pbf_reader& message, uint32_t limit = UINT32_MAX) {
  if (message.wire_type() != pbf_wire_type::varint) throw Malformed{};
  const uint64_t value = message.get_uint64();
  if (value > limit) throw Malformed{};
  return static_cast<uint32_t>(value);
}

std::span<const uint8_t> bytes_of(pbf_reader& message) {
  if (message.wire_type() != pbf_wire_type::length_delimited) throw Malformed{};
  const protozero::data_view view = message.get_view();
  return {reinterpret_cast<const uint8_t*>(view.data()), view.size()};
}

IpAddress ip(pbf_reader& message) {
  const std::span<const uint8_t> bytes = bytes_of(message);
  const IpAddress address = IpAddress::from(bytes);
  if (address.empty() && !bytes.empty()) throw Malformed{};
  return address;
}

std::vector<uint8_t> mac(pbf_reader& message) {
  const std::span<const uint8_t> bytes = bytes_of(message);
  if (bytes.size() > kMaxMac) throw Malformed{};
  return {bytes.begin(), bytes.end()};
}

std::string name(pbf_reader& message) {
  const std::span<const uint8_t> bytes = bytes_of(message);
  std::string text(bytes.begin(), bytes.end());
  if (text.size() > kMaxName || text.find('\0') != std::string::npos) throw Malformed{};
  return text;
}

void check_prefix(const IpAddress& address, uint8_t prefix) {
  if (prefix > address.size * 8) throw Malformed{};
}

template <class Row>
Row& add(std::vector<Row>& rows) {
  if (rows.size() == kMaxRows) throw Malformed{};
  return rows.emplace_back();
}

NetAddress read_address(pbf_reader message) {
  NetAddress out;
  while (message.next()) {
    switch (message.tag()) {
      case 1:
        out.address = ip(message);
        break;
      case 2:
        out.prefix = static_cast<uint8_t>(number(message, 128));
        break;
      case 3:
        out.peer = ip(message);
        break;
      case 4:
        out.broadcast = ip(message);
        break;
      case 5:
        out.scope = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      case 6:
        out.flags = number(message);
        break;
      default:
        message.skip();
    }
  }
  if (out.address.empty()) throw Malformed{};
  check_prefix(out.address, out.prefix);
  return out;
}

void read_interface(pbf_reader message, GuestInterface& out) {
  while (message.next()) {
    switch (message.tag()) {
      case 1:
        out.mac = mac(message);
        break;
      case 2:
        out.name = name(message);
        break;
      case 3:
        out.mtu = number(message);
        break;
      case 4:
        if (message.wire_type() != pbf_wire_type::length_delimited) throw Malformed{};
        add(out.addresses) = read_address(message.get_message());
        break;
      case 5:
        out.down = number(message) != 0;
        break;
      default:
        message.skip();
    }
  }
  if (out.mac.empty() || out.name.empty()) throw Malformed{};
}

void read_route(pbf_reader message, GuestRoute& out) {
  NetRoute& route = out.route;
  while (message.next()) {
    switch (message.tag()) {
      case 1:
        route.family = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      case 2:
        route.destination = ip(message);
        break;
      case 3:
        route.prefix = static_cast<uint8_t>(number(message, 128));
        break;
      case 4:
        route.gateway = ip(message);
        break;
      case 5:
        route.source = ip(message);
        break;
      case 6:
        out.device = name(message);
        break;
      case 7:
        route.table = number(message);
        break;
      case 8:
        route.protocol = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      case 9:
        route.scope = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      case 10:
        route.type = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      case 11:
        route.priority = number(message);
        break;
      case 12:
        route.flags = number(message);
        break;
      case 13:
        route.mtu = number(message);
        break;
      default:
        message.skip();
    }
  }
  check_prefix(route.destination, route.prefix);
}

void read_neighbour(pbf_reader message, GuestNeighbour& out) {
  while (message.next()) {
    switch (message.tag()) {
      case 1:
        out.device = name(message);
        break;
      case 2:
        out.neighbour.address = ip(message);
        break;
      case 3:
        out.neighbour.mac = mac(message);
        break;
      case 4:
        out.neighbour.state = static_cast<uint16_t>(number(message, UINT16_MAX));
        break;
      case 5:
        out.neighbour.flags = static_cast<uint8_t>(number(message, UINT8_MAX));
        break;
      default:
        message.skip();
    }
  }
  if (out.neighbour.address.empty()) throw Malformed{};
}

void read_network(pbf_reader message, GuestNetwork& out) {
  while (message.next()) {
    const bool nested = message.wire_type() == pbf_wire_type::length_delimited;
    if (message.tag() <= 3 && !nested) throw Malformed{};
    switch (message.tag()) {
      case 1:
        read_interface(message.get_message(), add(out.interfaces));
        break;
      case 2:
        read_route(message.get_message(), add(out.routes));
        break;
      case 3:
        read_neighbour(message.get_message(), add(out.neighbours));
        break;
      case 4:
        out.deadline_ms = number(message);
        break;
      default:
        message.skip();
    }
  }
}

}  // namespace

bool decode_guest_network(std::span<const uint8_t> bytes, GuestNetwork& out) {
  out = GuestNetwork{};
  try {
    read_network(pbf_reader(reinterpret_cast<const char*>(bytes.data()), bytes.size()), out);
  } catch (...) {
    return false;
  }
  return true;
}

}  // namespace bulkhead::agent
