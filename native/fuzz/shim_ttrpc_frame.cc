// The relay's view of containerd's bytes: however they are cut, the same frames come out, none
// reaches beyond what was received, and none is larger than the limit.
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/bytes.h"
#include "shim/ttrpc_frame.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::shim;

struct Seen {
  size_t size;
  uint32_t stream;
  uint8_t type;
  bool operator==(const Seen&) const = default;
};

// Feeds `input` in pieces of `step` bytes. False in `open`: the stream was refused.
std::vector<Seen> split(std::span<const uint8_t> input, size_t step, bool& open) {
  std::vector<Seen> frames;
  ByteQueue queue;
  open = true;
  while (!input.empty() && open) {
    size_t count = step < input.size() ? step : input.size();
    queue.append(input.data(), count);
    input = input.subspan(count);
    while (!queue.empty()) {
      TtrpcFrame frame = look_at_frame(queue.view());
      if (frame.status == TtrpcFrame::Status::kTooLarge ||
          frame.status == TtrpcFrame::Status::kNonsense) {
        open = false;
      }
      if (frame.status != TtrpcFrame::Status::kWhole) break;
      if (frame.size > queue.size() || frame.size > kTtrpcHeader + kTtrpcMaxPayload) std::abort();
      frames.push_back({frame.size, frame.stream, frame.type});
      queue.consume(frame.size);
    }
  }
  return frames;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  size_t step = data[0] % 32 + 1;
  std::span<const uint8_t> input(data + 1, size - 1);
  bool open_pieces;
  bool open_whole;
  std::vector<Seen> pieces = split(input, step, open_pieces);
  std::vector<Seen> whole = split(input, input.size(), open_whole);
  if (pieces != whole || open_pieces != open_whole) std::abort();

  // An answer of our own is one whole response frame to the stream it names.
  uint8_t answer[kMaxErrorFrame];
  std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  size_t written = write_error(answer, 77, RpcCode::kUnavailable, text);
  TtrpcFrame frame = look_at_frame({answer, written});
  if (frame.status != TtrpcFrame::Status::kWhole || frame.size != written || frame.stream != 77)
    std::abort();

  // A request is looked into without leaving it, and an answer left with us is one frame too.
  TtrpcCall call = look_at_call(input);
  auto inside = [&](const void* begin, size_t length) {
    auto* at = static_cast<const uint8_t*>(begin);
    return length == 0 || (at >= input.data() && at + length <= input.data() + input.size());
  };
  if (!inside(call.service.data(), call.service.size()) ||
      !inside(call.method.data(), call.method.size()) ||
      !inside(call.payload.data(), call.payload.size()))
    std::abort();
  std::string whole_answer = answer_frame(78, input);
  frame =
      look_at_frame({reinterpret_cast<const uint8_t*>(whole_answer.data()), whole_answer.size()});
  if (frame.status != TtrpcFrame::Status::kWhole || frame.size != whole_answer.size() ||
      frame.stream != 78)
    std::abort();
  return 0;
}
