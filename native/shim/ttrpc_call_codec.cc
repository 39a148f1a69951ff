#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

namespace {

using protozero::pbf_tag_type;
using protozero::pbf_wire_type;

TtrpcCall decode_call(std::span<const uint8_t> payload) {
  TtrpcCall call;
  protozero::pbf_reader reader(reinterpret_cast<const char*>(payload.data()), payload.size());
  // Request{1: service, 2: method, 3: payload, …}
  while (reader.next()) {
    pbf_tag_type tag = reader.tag();
    if (reader.wire_type() != pbf_wire_type::length_delimited || tag < 1 || tag > 3) {
      reader.skip();
      continue;
    }
    protozero::data_view view = reader.get_view();
    if (tag == 1) call.service = {view.data(), view.size()};
    if (tag == 2) call.method = {view.data(), view.size()};
    if (tag == 3) call.payload = {reinterpret_cast<const uint8_t*>(view.data()), view.size()};
  }
  return call;
}

}  // namespace

TtrpcCall look_at_call(std::span<const uint8_t> payload) {
  try {
    return decode_call(payload);
  } catch (const protozero::exception&) {
    return {};
  }
}

std::string answer_frame(uint32_t stream, std::span<const uint8_t> message) {
  std::string frame(kTtrpcHeader, '\0');
  protozero::pbf_writer writer(frame);
  writer.add_bytes(2, reinterpret_cast<const char*>(message.data()), message.size());
  size_t length = frame.size() - kTtrpcHeader;
  for (size_t i = 0; i < 4; i++) {
    frame[i] = static_cast<char>(length >> (24 - 8 * i));
    frame[4 + i] = static_cast<char>(stream >> (24 - 8 * i));
  }
  frame[8] = static_cast<char>(TtrpcType::kResponse);
  return frame;
}

}  // namespace bulkhead::shim
