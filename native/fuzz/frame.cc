// The framing between monitor and engine: bytes cut anywhere give the same messages, and never more
// than came in.
#include <cstdlib>
#include <string>
#include <vector>

#include "core/frame.h"

namespace {

using bulkhead::FrameReader;

void take_all(FrameReader& reader, std::vector<std::string>& messages) {
  while (auto message = reader.next()) messages.emplace_back(message->begin(), message->end());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte says how the rest is cut.
  size_t step = data[0] % 37u + 1;
  std::span<const uint8_t> stream(data + 1, size - 1);
  FrameReader whole;
  std::vector<std::string> expected;
  bool whole_ok = whole.feed(stream);
  take_all(whole, expected);
  FrameReader pieces;
  std::vector<std::string> got;
  bool pieces_ok = true;
  for (size_t at = 0; at < stream.size() && pieces_ok; at += step) {
    pieces_ok = pieces.feed(stream.subspan(at, std::min(step, stream.size() - at)));
    take_all(pieces, got);
  }
  // An oversize header is noticed when it is first in line, which in one piece may be after the
  // last feed.
  (void)whole_ok;
  if (got != expected) std::abort();
  bulkhead::FrameWriter writer;
  size_t total = 0;
  for (const std::string& message : got) {
    std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(message.data()),
                                   message.size());
    if (!writer.push(bytes.first(bytes.size() / 2), bytes.subspan(bytes.size() / 2))) std::abort();
    total += bulkhead::kFrameHeader + message.size();
  }
  if (writer.backlog() != total || total > stream.size()) std::abort();
  return 0;
}
