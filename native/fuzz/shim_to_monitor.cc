// What an engine may send: any bytes are decoded or refused, every view lies within them, and what
// the monitor encodes of it is one whole message again.
#include <cstdlib>
#include <cstring>
#include <protozero/pbf_reader.hpp>

#include "core/frame.h"
#include "shim/messages.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::shim;

const uint8_t* low;
const uint8_t* high;

void within(const void* data, size_t size) {
  if (size == 0) return;
  auto* at = static_cast<const uint8_t*>(data);
  if (at < low || at + size > high) std::abort();
}

// The one message of a frame that the monitor made; its length is right and it is well-formed to
// the last byte.
void check_frame(const std::string& frame) {
  FrameReader reader;
  if (!reader.feed({reinterpret_cast<const uint8_t*>(frame.data()), frame.size()})) std::abort();
  auto message = reader.next();
  if (!message || reader.partial()) std::abort();
  protozero::pbf_reader outer(reinterpret_cast<const char*>(message->data()), message->size());
  while (outer.next()) {
    protozero::pbf_reader body = outer.get_message();
    while (body.next()) body.skip();
  }
}

void check_stream_data(uint32_t conn, std::span<const uint8_t> data) {
  StreamDataPrefix prefix = stream_data_prefix(conn, data.size());
  std::string frame(reinterpret_cast<const char*>(prefix.bytes), prefix.length);
  frame.append(reinterpret_cast<const char*>(data.data()), data.size());
  check_frame(frame);
  protozero::pbf_reader outer(frame.data() + kFrameHeader, frame.size() - kFrameHeader);
  if (!outer.next(3)) std::abort();
  protozero::pbf_reader body = outer.get_message();
  if (!body.next(1) || body.get_uint32() != conn || !body.next(2)) std::abort();
  protozero::data_view view = body.get_view();
  if (view.size() != data.size() ||
      (!data.empty() && std::memcmp(view.data(), data.data(), data.size()) != 0)) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  low = data;
  high = data + size;
  ToMonitor message;
  if (!decode_to_monitor({data, size}, message)) return 0;
  within(message.data.data(), message.data.size());
  within(message.plan.data(), message.plan.size());
  for (std::string_view text :
       {message.key, message.stdio.in, message.stdio.out, message.stdio.err, message.error,
        message.output, message.group, message.bootstrap, message.shim_cgroup}) {
    within(text.data(), text.size());
  }
  check_stream_data(message.conn, message.data);
  check_frame(encode_launched(message.request, message.key, message.signal, message.stdio.in));
  check_frame(encode_started(message.request, message.key, message.width));
  check_frame(encode_exited(message.key, message.width, message.height, message.request));
  check_frame(encode_reply(message.request, static_cast<int>(message.signal)));
  StepFailure step;
  step.index = message.width;
  step.path = message.key;
  step.err = static_cast<int32_t>(message.signal);
  LaunchFailure failure;
  failure.request = message.request;
  failure.key = message.key;
  failure.step = message.signal % 2 == 0 ? &step : nullptr;
  failure.path = message.stdio.out;
  check_frame(encode_launch_failed(failure));
  check_frame(encode_launch_warning(message.key, step));
  Hello hello;
  hello.group = message.group;
  hello.bundle = message.stdio.err;
  HelloBuilder builder(hello);
  ProcessState state;
  state.key = message.key;
  state.exited_at_ns = message.request;
  builder.add(state);
  check_frame(builder.finish());
  return 0;
}
