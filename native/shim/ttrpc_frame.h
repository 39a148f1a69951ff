// The outside of a ttrpc frame (containerd/ttrpc PROTOCOL.md): u32 length, u32 stream id, u8 type,
// u8 flags, all big-endian, then `length` bytes. The monitor looks
// no deeper, but for the calls that it answers itself (left_answers.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bulkhead::shim {

inline constexpr size_t kTtrpcHeader = 10;
inline constexpr size_t kTtrpcMaxPayload = 4u << 20;
// What announces more than this, or has a type of its own, is no ttrpc.
inline constexpr size_t kTtrpcSanePayload = 1u << 30;

enum class TtrpcType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };
// Flag of a request whose client goes on sending data frames.
inline constexpr uint8_t kTtrpcRemoteOpen = 0x02;

struct TtrpcFrame {
  // kTooLarge: a frame over the limit, of which only the header can be used. kNonsense: not ttrpc
  // at all.
  enum class Status { kPartial, kWhole, kTooLarge, kNonsense };
  Status status = Status::kPartial;
  size_t size = 0;  // header and payload, once the header is there; otherwise kTtrpcHeader
  uint32_t stream = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
};

// Looks at the frame that begins with `bytes`, which may hold less than it or more.
TtrpcFrame look_at_frame(std::span<const uint8_t> bytes);

// google.rpc.Code
enum class RpcCode : uint8_t { kResourceExhausted = 8, kUnavailable = 14 };
// Longest message of write_error.
inline constexpr size_t kMaxErrorText = 100;
inline constexpr size_t kMaxErrorFrame = kTtrpcHeader + 8 + kMaxErrorText;

// An answer that the monitor gives itself: a Response{status{code, text}} to `stream`, as one frame
// in `out`, which holds kMaxErrorFrame bytes. A longer text is cut. Returns the size.
size_t write_error(uint8_t* out, uint32_t stream, RpcCode code, std::string_view text);

// The part of a ttrpc request that the relay reads: views into `payload`. Empty when it is none.
struct TtrpcCall {
  std::string_view service;
  std::string_view method;
  std::span<const uint8_t> payload;
};
TtrpcCall look_at_call(std::span<const uint8_t> payload);

// An answer whose message is encoded already: a Response{payload} to `stream`, as one frame.
std::string answer_frame(uint32_t stream, std::span<const uint8_t> message);

}  // namespace bulkhead::shim
