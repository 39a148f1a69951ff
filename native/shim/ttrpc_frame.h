// The outside of a ttrpc frame (containerd/ttrpc PROTOCOL.md): u32 length, u32 stream id, u8 type,
// u8 flags, all big-endian, then `length` bytes. The monitor looks no deeper.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::shim {

inline constexpr size_t kTtrpcHeader = 10;
inline constexpr size_t kTtrpcMaxPayload = 4u << 20;

enum class TtrpcType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };
// Flag of a request whose client goes on sending data frames.
inline constexpr uint8_t kTtrpcRemoteOpen = 0x02;

struct TtrpcFrame {
  enum class Status { kPartial, kWhole, kTooLarge };
  Status status = Status::kPartial;
  size_t size = 0;  // header and payload, once the header is there; otherwise kTtrpcHeader
  uint32_t stream = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
};

// Looks at the frame that begins with `bytes`, which may hold less than it or more.
TtrpcFrame look_at_frame(std::span<const uint8_t> bytes);

// An answer that the monitor gives itself: a Response whose status is UNAVAILABLE with `message`.
// Written to `out`, which holds at least kTtrpcHeader + 8 + message.size() bytes; message is at
// most 100 bytes. Returns the size.
size_t write_unavailable(uint8_t* out, uint32_t stream, std::span<const char> message);

}  // namespace bulkhead::shim
