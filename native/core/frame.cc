#include "core/frame.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace bulkhead {

namespace {

constexpr size_t kReadStep = 64u << 10;
// A buffer that grew beyond this is given back when it is empty: monitors are many and mostly idle.
constexpr size_t kKeep = 64u << 10;

size_t read_length(const uint8_t* bytes) {
  return static_cast<size_t>(bytes[0]) << 24 | static_cast<size_t>(bytes[1]) << 16 |
         static_cast<size_t>(bytes[2]) << 8 | bytes[3];
}

}  // namespace

bool FrameReader::header_ok() const {
  return end_ - begin_ < kFrameHeader || read_length(buffer_.data() + begin_) <= kMaxFrame;
}

// Makes `room` bytes available behind end_.
void FrameReader::compact(size_t room) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (buffer_.size() - end_ >= room) return;
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (buffer_.size() - end_ < room) buffer_.resize(end_ + room);
}

FrameReader::Status FrameReader::fill(int fd) {
  if (!header_ok()) return Status::kTooLarge;
  size_t room = kReadStep;
  if (end_ - begin_ >= kFrameHeader) {
    size_t want = kFrameHeader + read_length(buffer_.data() + begin_);
    if (want > end_ - begin_) room = want - (end_ - begin_);
  }
  compact(room);
  ssize_t got = ::read(fd, buffer_.data() + end_, buffer_.size() - end_);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return Status::kOpen;
    error_ = errno;
    return Status::kError;
  }
  if (got == 0) return Status::kEnd;
  end_ += static_cast<size_t>(got);
  return header_ok() ? Status::kOpen : Status::kTooLarge;
}

bool FrameReader::feed(std::span<const uint8_t> bytes) {
  if (!header_ok()) return false;
  if (!bytes.empty()) {
    compact(bytes.size());
    std::memcpy(buffer_.data() + end_, bytes.data(), bytes.size());
    end_ += bytes.size();
  }
  return header_ok();
}

std::optional<std::span<const uint8_t>> FrameReader::next() {
  if (end_ - begin_ < kFrameHeader) {
    if (begin_ == end_ && buffer_.size() > kKeep) {
      buffer_ = {};
      begin_ = end_ = 0;
    }
    return std::nullopt;
  }
  size_t length = read_length(buffer_.data() + begin_);
  if (length > kMaxFrame || end_ - begin_ - kFrameHeader < length) return std::nullopt;
  std::span<const uint8_t> message(buffer_.data() + begin_ + kFrameHeader, length);
  begin_ += kFrameHeader + length;
  return message;
}

bool FrameWriter::push(std::span<const uint8_t> head, std::span<const uint8_t> tail) {
  size_t length = head.size() + tail.size();
  if (length > kMaxFrame) return false;
  if (begin_ == buffer_.size()) {
    buffer_.clear();
    begin_ = 0;
  } else if (begin_ > kKeep) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(begin_));
    begin_ = 0;
  }
  size_t at = buffer_.size();
  buffer_.resize(at + kFrameHeader + length);
  uint8_t* out = buffer_.data() + at;
  *out++ = static_cast<uint8_t>(length >> 24);
  *out++ = static_cast<uint8_t>(length >> 16);
  *out++ = static_cast<uint8_t>(length >> 8);
  *out++ = static_cast<uint8_t>(length);
  if (!head.empty()) std::memcpy(out, head.data(), head.size());
  if (!tail.empty()) std::memcpy(out + head.size(), tail.data(), tail.size());
  return true;
}

bool FrameWriter::flush(int fd) {
  while (begin_ < buffer_.size()) {
    const uint8_t* from = buffer_.data() + begin_;
    size_t count = buffer_.size() - begin_;
    ssize_t done = ::send(fd, from, count, MSG_NOSIGNAL);
    if (done < 0 && errno == ENOTSOCK) done = ::write(fd, from, count);
    if (done < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN;
    }
    begin_ += static_cast<size_t>(done);
  }
  if (buffer_.capacity() > kKeep) {
    buffer_ = {};
  } else {
    buffer_.clear();
  }
  begin_ = 0;
  return true;
}

}  // namespace bulkhead
