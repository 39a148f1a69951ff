// A datagram of rtnetlink: messages, attributes, and the rows of every table.
#include <cstddef>
#include <cstdint>

#include "core/net_tables.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const uint8_t> rest(data, size);
  for (bulkhead::NetlinkMessage message; bulkhead::netlink_next(rest, message);) {
    bulkhead::NetLink link;
    bulkhead::NetAddress address;
    bulkhead::NetRoute route;
    bulkhead::NetNeighbour neighbour;
    bulkhead::decode_link(message.body, link);
    bulkhead::decode_address(message.body, address);
    bulkhead::decode_route(message.body, route);
    bulkhead::decode_neighbour(message.body, neighbour);
  }
  return 0;
}
