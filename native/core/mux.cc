#include "core/mux.h"

#include <algorithm>
#include <cstring>

namespace bulkhead {

namespace {

constexpr std::array<uint8_t, 16> kMagic = {0xff, 'b', 'u', 'l', 'k', 'h', 'e', 'a',
                                            'd',  ' ', 'm', 'u', 'x', ' ', '1', 0x00};
// One read: a whole frame of a stream, so that a fast writer costs one system call a frame.
constexpr size_t kReadSize = kMuxMaxData + kMuxHeader;
// Credit is worth a frame of its own from here on; the sender has the rest of its window till then.
constexpr uint32_t kCreditStep = kMuxWindow / 4;

uint32_t load32(const uint8_t* at) {
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

void store32(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}

void store_header(uint8_t* at, size_t length, uint32_t stream, MuxKind kind) {
  store32(at, static_cast<uint32_t>(length));
  store32(at + 4, stream);
  at[8] = static_cast<uint8_t>(kind);
}

// Why a frame with this header cannot be; nullptr: it can.
const char* objection(size_t length, uint32_t stream, uint8_t kind) {
  if (kind > static_cast<uint8_t>(MuxKind::kReset)) return "a frame of no known kind";
  if (stream == kMuxControl) {
    if (kind != static_cast<uint8_t>(MuxKind::kData)) return "flow control on the control stream";
    return length > kMuxMaxControl ? "a control message over 8 MiB" : nullptr;
  }
  switch (static_cast<MuxKind>(kind)) {
    case MuxKind::kData:
      return length > kMuxMaxData ? "a frame over 64 KiB" : nullptr;
    case MuxKind::kCredit:
      return length != 4 ? "a credit that is no number" : nullptr;
    default:
      return length != 0 ? "an end of stream with a payload" : nullptr;
  }
}

}  // namespace

std::array<uint8_t, kMuxPreamble> mux_preamble(const MuxNonce& nonce) {
  std::array<uint8_t, kMuxPreamble> bytes;
  std::copy(kMagic.begin(), kMagic.end(), bytes.begin());
  std::copy(nonce.begin(), nonce.end(), bytes.begin() + kMagic.size());
  return bytes;
}

void MuxReader::expect(const MuxNonce& nonce) {
  resync();
  nonce_ = nonce;
  only_this_ = true;
}

void MuxReader::release() {
  if (used_ > 0) bytes_.consume_keeping(used_);
  used_ = 0;
}

// Room for the rest of the frame that has begun, and for one read at least.
std::span<uint8_t> MuxReader::reserve() {
  release();
  size_t room = kReadSize;
  if (in_session_ && bytes_.size() >= kMuxHeader) {
    size_t whole = kMuxHeader + std::min<size_t>(load32(bytes_.data()), kMuxMaxControl);
    if (whole > bytes_.size() + room) room = whole - bytes_.size();
  }
  return {bytes_.reserve(room), room};
}

void MuxReader::resync() {
  release();
  in_session_ = false;
}

MuxReader::Found MuxReader::malformed(const char* problem) {
  problem_ = problem;
  return Found::kMalformed;
}

MuxReader::Found MuxReader::next() {
  release();
  if (!in_session_) return find_preamble();
  return parse_header();
}

// Everything before a preamble goes, but not a tail that may become one.
MuxReader::Found MuxReader::find_preamble() {
  while (!bytes_.empty()) {
    const uint8_t* data = bytes_.data();
    const void* first = std::memchr(data, kMagic[0], bytes_.size());
    if (first == nullptr) break;
    bytes_.consume_keeping(static_cast<size_t>(static_cast<const uint8_t*>(first) - data));
    data = bytes_.data();
    size_t have = std::min(bytes_.size(), kMagic.size());
    bool fits = std::memcmp(data, kMagic.data(), have) == 0;
    if (fits && bytes_.size() < kMuxPreamble) {
      size_t known = bytes_.size() - have;
      if (!only_this_ || std::memcmp(data + have, nonce_.data(), known) == 0)
        return Found::kNothing;
      fits = false;
    }
    if (fits && (!only_this_ || std::memcmp(data + have, nonce_.data(), nonce_.size()) == 0)) {
      std::memcpy(nonce_.data(), data + have, nonce_.size());
      bytes_.consume_keeping(kMuxPreamble);
      in_session_ = true;
      return Found::kSession;
    }
    bytes_.consume_keeping(1);
  }
  bytes_.consume_keeping(bytes_.size());
  return Found::kNothing;
}

MuxReader::Found MuxReader::parse_header() {
  if (bytes_.size() < kMuxHeader) return Found::kNothing;
  const uint8_t* head = bytes_.data();
  if (head[0] == kMagic[0] && std::memcmp(head, kMagic.data(), kMuxHeader) == 0) {
    if (only_this_) return malformed("a second start of the session");
    in_session_ = false;
    return find_preamble();
  }
  size_t length = load32(head);
  uint32_t stream = load32(head + 4);
  if (const char* problem = objection(length, stream, head[8])) return malformed(problem);
  if (bytes_.size() < kMuxHeader + length) return Found::kNothing;
  frame_.stream = stream;
  frame_.kind = static_cast<MuxKind>(head[8]);
  frame_.payload = {head + kMuxHeader, length};
  frame_.credit = 0;
  if (frame_.kind == MuxKind::kCredit) {
    frame_.credit = load32(head + kMuxHeader);
    frame_.payload = {};
    if (frame_.credit == 0) return malformed("a credit of nothing");
  }
  used_ = kMuxHeader + length;
  return Found::kFrame;
}

void MuxWriter::preamble(const MuxNonce& nonce) {
  auto bytes = mux_preamble(nonce);
  queue_.append(bytes.data(), bytes.size());
}

bool MuxWriter::control(std::span<const uint8_t> message) {
  if (message.size() > kMuxMaxControl) return false;
  data(kMuxControl, message);
  return true;
}

void MuxWriter::data(uint32_t stream, std::span<const uint8_t> bytes) {
  uint8_t* at = queue_.reserve(kMuxHeader + bytes.size());
  store_header(at, bytes.size(), stream, MuxKind::kData);
  if (!bytes.empty()) std::memcpy(at + kMuxHeader, bytes.data(), bytes.size());
  queue_.commit(kMuxHeader + bytes.size());
}

void MuxWriter::commit_data(uint32_t stream, size_t size) {
  if (size == 0) return;
  store_header(queue_.reserve(kMuxHeader + size), size, stream, MuxKind::kData);
  queue_.commit(kMuxHeader + size);
}

void MuxWriter::credit(uint32_t stream, uint32_t bytes) {
  uint8_t* at = queue_.reserve(kMuxHeader + 4);
  store_header(at, 4, stream, MuxKind::kCredit);
  store32(at + kMuxHeader, bytes);
  queue_.commit(kMuxHeader + 4);
}

void MuxWriter::signal(uint32_t stream, MuxKind kind) {
  store_header(queue_.reserve(kMuxHeader), 0, stream, kind);
  queue_.commit(kMuxHeader);
}

bool MuxFlow::credited(uint32_t bytes) {
  if (bytes > kMuxWindow - window_) return false;
  window_ += bytes;
  return true;
}

bool MuxFlow::received(size_t bytes) {
  if (bytes > window_) return false;
  window_ -= static_cast<uint32_t>(bytes);
  return true;
}

uint32_t MuxFlow::taken(size_t bytes) {
  pending_ += static_cast<uint32_t>(bytes);
  if (pending_ < kCreditStep) return 0;
  uint32_t credit = pending_;
  window_ += credit;
  pending_ = 0;
  return credit;
}

}  // namespace bulkhead
