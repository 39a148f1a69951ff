#include "shim/ttrpc_frame.h"

#include <cstring>

namespace bulkhead::shim {

namespace {

uint32_t big_endian(const uint8_t* at) {
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

void put_big_endian(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}

}  // namespace

TtrpcFrame look_at_frame(std::span<const uint8_t> bytes) {
  TtrpcFrame frame;
  frame.size = kTtrpcHeader;
  // The length alone is enough to refuse a stream of garbage.
  if (bytes.size() >= 4 && big_endian(bytes.data()) > kTtrpcMaxPayload) {
    frame.status = TtrpcFrame::Status::kTooLarge;
    return frame;
  }
  if (bytes.size() < kTtrpcHeader) return frame;
  frame.size = kTtrpcHeader + big_endian(bytes.data());
  frame.stream = big_endian(bytes.data() + 4);
  frame.type = bytes[8];
  frame.flags = bytes[9];
  if (bytes.size() >= frame.size) frame.status = TtrpcFrame::Status::kWhole;
  return frame;
}

size_t write_unavailable(uint8_t* out, uint32_t stream, std::span<const char> message) {
  constexpr uint8_t kUnavailable = 14;  // google.rpc.Code
  uint8_t length = static_cast<uint8_t>(message.size());
  // Response{1: status{1: code, 2: message}}
  const uint8_t head[] = {
      1 << 3 | 2, static_cast<uint8_t>(length + 4), 1 << 3, kUnavailable, 2 << 3 | 2, length};
  put_big_endian(out, static_cast<uint32_t>(sizeof head + message.size()));
  put_big_endian(out + 4, stream);
  out[8] = static_cast<uint8_t>(TtrpcType::kResponse);
  out[9] = 0;
  std::memcpy(out + kTtrpcHeader, head, sizeof head);
  std::memcpy(out + kTtrpcHeader + sizeof head, message.data(), message.size());
  return kTtrpcHeader + sizeof head + message.size();
}

}  // namespace bulkhead::shim
