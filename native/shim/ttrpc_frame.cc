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
  if (bytes.size() < kTtrpcHeader) return frame;
  size_t length = big_endian(bytes.data());
  frame.size = kTtrpcHeader + length;
  frame.stream = big_endian(bytes.data() + 4);
  frame.type = bytes[8];
  frame.flags = bytes[9];
  bool known = frame.type >= static_cast<uint8_t>(TtrpcType::kRequest) &&
               frame.type <= static_cast<uint8_t>(TtrpcType::kData);
  if (length > kTtrpcSanePayload || (length > kTtrpcMaxPayload && !known)) {
    frame.status = TtrpcFrame::Status::kNonsense;
  } else if (length > kTtrpcMaxPayload) {
    frame.status = TtrpcFrame::Status::kTooLarge;
  } else if (bytes.size() >= frame.size) {
    frame.status = TtrpcFrame::Status::kWhole;
  }
  return frame;
}

size_t write_error(uint8_t* out, uint32_t stream, RpcCode code, std::string_view text) {
  text = text.substr(0, kMaxErrorText);
  uint8_t length = static_cast<uint8_t>(text.size());
  // Response{1: status{1: code, 2: message}}
  const uint8_t head[] = {1 << 3 | 2, static_cast<uint8_t>(length + 4),
                          1 << 3,     static_cast<uint8_t>(code),
                          2 << 3 | 2, length};
  put_big_endian(out, static_cast<uint32_t>(sizeof head + text.size()));
  put_big_endian(out + 4, stream);
  out[8] = static_cast<uint8_t>(TtrpcType::kResponse);
  out[9] = 0;
  std::memcpy(out + kTtrpcHeader, head, sizeof head);
  if (length > 0) std::memcpy(out + kTtrpcHeader + sizeof head, text.data(), length);
  return kTtrpcHeader + sizeof head + text.size();
}

}  // namespace bulkhead::shim
