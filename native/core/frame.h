// Messages on a stream: a big-endian u32 length, then that many bytes, at most kMaxFrame.
// Used between monitor, agent and engine (proto/executor.proto). Works on blocking and non-blocking
// descriptors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/result.h"

namespace bulkhead {

inline constexpr size_t kMaxFrame = 8u << 20;
inline constexpr size_t kFrameHeader = 4;

// Collects bytes and hands out complete messages.
class FrameReader {
 public:
  enum class Status { kOpen, kEnd, kTooLarge, kError };

  // One read(2) of what is there. kOpen: some bytes came, or none were there (EAGAIN, EINTR).
  // kEnd: end of file. kTooLarge: a header announces more than kMaxFrame; the stream is useless
  // then. kError: see error().
  Status fill(int fd);
  // Adds bytes that came by another way. False: a header announces more than kMaxFrame.
  bool feed(std::span<const uint8_t> bytes);
  // The next complete message, valid until the next call of any member. Empty messages are
  // messages.
  std::optional<std::span<const uint8_t>> next();
  // True when the stream ended or stands in the middle of a message.
  bool partial() const { return end_ > begin_; }
  int error() const { return error_; }

 private:
  void compact(size_t room);
  bool header_ok() const;

  std::vector<uint8_t> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int error_ = 0;
};

// Queues messages and writes what the descriptor takes.
class FrameWriter {
 public:
  // Queues one message made of two parts (either may be empty). False: larger than kMaxFrame,
  // nothing queued.
  bool push(std::span<const uint8_t> head, std::span<const uint8_t> tail = {});
  // Writes until done or EAGAIN. False: the peer is gone, errno says how. Never raises SIGPIPE on
  // sockets.
  bool flush(int fd);
  bool empty() const { return begin_ == buffer_.size(); }
  // Bytes that wait.
  size_t backlog() const { return buffer_.size() - begin_; }

 private:
  std::vector<uint8_t> buffer_;
  size_t begin_ = 0;
};

}  // namespace bulkhead
