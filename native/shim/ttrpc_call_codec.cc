#include <protozero/pbf_writer.hpp>

#include "core/pbf_fields.h"
#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

namespace {

// Request{1: service, 2: method, 3: payload, …}
TtrpcCall decode_call(std::span<const uint8_t> payload) {
  TtrpcCall call;
  each_field({reinterpret_cast<const char*>(payload.data()), payload.size()},
             [&call](uint32_t field, pbf_reader& reader) {
               switch (field) {
                 BULKHEAD_FIELD(1, kBytes, call.service = text(reader))
                 BULKHEAD_FIELD(2, kBytes, call.method = text(reader))
                 BULKHEAD_FIELD(3, kBytes, call.payload = bytes_of(reader))
                 default:
                   return false;
               }
             });
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
