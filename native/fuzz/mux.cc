// The channel's bytes: however they are cut, the same sessions and frames come out, each within the
// rules and made of nothing but what came in; and a frame that is written again is the same frame.
#include "core/mux.h"

#include <cstdlib>
#include <cstring>
#include <string>

namespace {

using namespace bulkhead;

void require(bool condition) {
  if (!condition) std::abort();
}

void check_rules(const MuxFrame& frame) {
  if (frame.stream == kMuxControl) {
    require(frame.kind == MuxKind::kData && frame.payload.size() <= kMuxMaxControl);
    return;
  }
  require(frame.payload.size() <= kMuxMaxData);
  require(frame.kind == MuxKind::kData || frame.payload.empty());
  require((frame.kind == MuxKind::kCredit) == (frame.credit != 0));
}

void write_again(MuxWriter& writer, const MuxFrame& frame) {
  switch (frame.kind) {
    case MuxKind::kData:
      if (frame.stream == kMuxControl) {
        require(writer.control(frame.payload));
      } else if (frame.payload.empty()) {
        writer.data(frame.stream, {});
      } else {
        std::memcpy(writer.reserve_data(kMuxMaxData), frame.payload.data(), frame.payload.size());
        writer.commit_data(frame.stream, frame.payload.size());
      }
      break;
    case MuxKind::kCredit:
      writer.credit(frame.stream, frame.credit);
      break;
    case MuxKind::kEof:
      writer.eof(frame.stream);
      break;
    case MuxKind::kReset:
      writer.reset(frame.stream);
      break;
  }
}

// Everything that was found, written down again; a malformed place ends a monitor's channel, and
// an agent's session.
std::string read_all(std::span<const uint8_t> input, size_t step, bool agent) {
  constexpr MuxNonce kNonce = {1};
  MuxReader reader;
  if (!agent) reader.expect(kNonce);
  MuxWriter writer;
  for (size_t at = 0; at < input.size(); at += step) {
    std::span<const uint8_t> piece = input.subspan(at, std::min(step, input.size() - at));
    std::span<uint8_t> room = reader.reserve();
    require(room.size() >= piece.size());
    std::memcpy(room.data(), piece.data(), piece.size());
    reader.commit(piece.size());
    for (;;) {
      MuxReader::Found found = reader.next();
      if (found == MuxReader::Found::kNothing) break;
      if (found == MuxReader::Found::kMalformed) {
        require(std::strlen(reader.problem()) > 0);
        if (!agent) return std::string(writer.view().begin(), writer.view().end()) + "!";
        reader.resync();
        writer.data(0, {});
        continue;
      }
      if (found == MuxReader::Found::kSession) {
        require(agent || reader.nonce() == kNonce);
        writer.preamble(reader.nonce());
        continue;
      }
      require(reader.in_session());
      check_rules(reader.frame());
      write_again(writer, reader.frame());
    }
  }
  return {writer.view().begin(), writer.view().end()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  bool agent = (data[0] & 1) != 0;
  size_t step = data[0] / 2u % 61u + 1;
  auto preamble = mux_preamble({1});
  std::string bytes(preamble.begin(), preamble.end());
  // With a session at the start, or wherever the input has one.
  if ((data[1] & 1) != 0) bytes.clear();
  bytes.append(reinterpret_cast<const char*>(data + 2), size - 2);
  std::span<const uint8_t> input(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  std::string pieces = read_all(input, step, agent);
  require(pieces == read_all(input, 64u << 10, agent));
  // A mark for every end of a session, each of which began with a preamble.
  require(pieces.size() <= bytes.size() + bytes.size() / kMuxPreamble * kMuxHeader);
  return 0;
}
