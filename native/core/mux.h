// Many streams over one byte stream: the channel between a monitor and its guest's agent
// (native/shim/guest_link.h, native/agent).
//
//   session  = preamble frame*          one each way; the agent's preamble repeats the monitor's
//   preamble = magic(16) nonce(16)      its first byte is 0xff: never the start of a frame
//   frame    = be32 payload length | be32 stream | u8 kind | payload
//
// Stream 0 is control: every DATA is one whole message of at most 8 MiB, without flow control.
// Streams from 1 on each carry one descriptor of standard streams, in one direction. DATA carries
// at most 64 KiB; a sender may have kMuxWindow bytes on their way, and CREDIT gives back what the
// receiver's descriptor has taken. An empty DATA says that everything written to a descriptor
// whose process has ended was sent. EOF ends a stream; RESET from its receiver says that nobody
// reads any more, from its sender that nothing more comes.
//
// The bytes of a virtio port survive both a disconnect of the host's end and the snapshot of a
// guest, so a receiver without a session looks for a preamble and drops everything else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/bytes.h"

namespace bulkhead {

inline constexpr uint32_t kMuxControl = 0;
inline constexpr size_t kMuxHeader = 9;
inline constexpr size_t kMuxMaxData = 64u << 10;
inline constexpr size_t kMuxMaxControl = 8u << 20;
inline constexpr uint32_t kMuxWindow = 256u << 10;
inline constexpr size_t kMuxPreamble = 32;

using MuxNonce = std::array<uint8_t, 16>;

enum class MuxKind : uint8_t { kData = 0, kCredit = 1, kEof = 2, kReset = 3 };

struct MuxFrame {
  uint32_t stream = 0;
  MuxKind kind = MuxKind::kData;
  // DATA: the bytes. Otherwise empty. Valid until the next call of the reader.
  std::span<const uint8_t> payload;
  uint32_t credit = 0;  // CREDIT: bytes, at least 1
};

// The 32 bytes that open a session.
std::array<uint8_t, kMuxPreamble> mux_preamble(const MuxNonce& nonce);

// Collects bytes and hands out frames. Nothing is handed out that does not keep the rules above.
class MuxReader {
 public:
  // What next() has found.
  enum class Found {
    kNothing,    // more bytes are needed
    kSession,    // a preamble: nonce() says whose; frames follow, streams of before are void
    kFrame,      // frame()
    kMalformed,  // problem() says how; the session is over, the bytes are still there
  };

  // The agent: any preamble opens a session, also in the place of a frame.
  MuxReader() = default;
  // The monitor: only its own preamble opens the session, and it comes once.
  explicit MuxReader(const MuxNonce& nonce) { expect(nonce); }
  void expect(const MuxNonce& nonce);

  // Where the next read(2) may put its bytes, to be followed by commit().
  std::span<uint8_t> reserve();
  void commit(size_t count) { bytes_.commit(count); }
  void feed(std::span<const uint8_t> bytes) { bytes_.append(bytes.data(), bytes.size()); }

  Found next();
  const MuxFrame& frame() const { return frame_; }
  const MuxNonce& nonce() const { return nonce_; }
  bool in_session() const { return in_session_; }
  // One clause, for a log line.
  const char* problem() const { return problem_; }
  // Gives back what memory is not in use; to be called when nothing has come for a while.
  void trim() {
    if (used_ == 0) bytes_.trim();
  }
  // Forgets the session, not the bytes: they are searched for a preamble. After kMalformed, and
  // when the other end has gone.
  void resync();

 private:
  Found malformed(const char* problem);
  Found find_preamble();
  Found parse_header();
  void release();

  ByteQueue bytes_;
  size_t used_ = 0;  // of the frame handed out last
  MuxFrame frame_;
  MuxNonce nonce_{};
  bool only_this_ = false;
  bool in_session_ = false;
  const char* problem_ = "";
};

// Queues frames in order; the owner writes view() out and says how much was taken.
class MuxWriter {
 public:
  void preamble(const MuxNonce& nonce);
  // One control message. False: larger than kMuxMaxControl, nothing was queued.
  bool control(std::span<const uint8_t> message);
  void credit(uint32_t stream, uint32_t bytes);
  void eof(uint32_t stream) { signal(stream, MuxKind::kEof); }
  void reset(uint32_t stream) { signal(stream, MuxKind::kReset); }
  // `bytes` is at most kMuxMaxData; may be empty.
  void data(uint32_t stream, std::span<const uint8_t> bytes);

  // DATA without a copy: room for a header and `size` bytes, to be filled from the descriptor and
  // followed by commit_data() with what came (0: nothing is queued).
  uint8_t* reserve_data(size_t size) { return queue_.reserve(kMuxHeader + size) + kMuxHeader; }
  void commit_data(uint32_t stream, size_t size);

  std::span<const uint8_t> view() const { return queue_.view(); }
  void consume(size_t count) { queue_.consume_keeping(count); }
  // Gives back what memory is not in use.
  void trim() { queue_.trim(); }
  size_t size() const { return queue_.size(); }
  bool empty() const { return queue_.empty(); }
  void clear() { queue_.clear(); }

 private:
  void signal(uint32_t stream, MuxKind kind);
  ByteQueue queue_;
};

// Flow control of one stream, both roles (a stream uses one of them).
class MuxFlow {
 public:
  // Sender: bytes that may be sent now.
  uint32_t window() const { return window_; }
  void sent(size_t bytes) { window_ -= static_cast<uint32_t>(bytes); }
  // False: more than was ever sent is given back.
  bool credited(uint32_t bytes);

  // Receiver: false: more than the window came.
  bool received(size_t bytes);
  // The descriptor has taken `bytes`. Returns the credit to send now, 0: not worth a frame yet.
  uint32_t taken(size_t bytes);

 private:
  uint32_t window_ = kMuxWindow;  // sender: may send; receiver: may come
  uint32_t pending_ = 0;          // receiver: taken, not given back yet
};

}  // namespace bulkhead
