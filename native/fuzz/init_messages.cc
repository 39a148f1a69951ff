// The sync socket's messages: any bytes are decoded or refused; what is decoded survives encoding.
#include <cstdlib>
#include <string>

#include "core/init_codec.h"

namespace {

using namespace bulkhead;

std::string encode_again(const InitEvent& event) {
  switch (event.kind) {
    case InitEvent::Kind::kCloned:
      return encode_cloned(event.pid);
    case InitEvent::Kind::kPaused:
      return encode_paused(event.point);
    case InitEvent::Kind::kFailed:
      return encode_failure(event.failure);
    case InitEvent::Kind::kWarning:
      return encode_warning(event.failure);
    case InitEvent::Kind::kConsole:
      return encode_console();
    case InitEvent::Kind::kEnd:
      break;
  }
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ToInit answer;
  if (!decode_to_init({data, size}, answer) && (answer.proceed || answer.streams != 0))
    std::abort();
  InitEvent event;
  if (!decode_init_event({data, size}, event)) return 0;
  std::string encoded = encode_again(event);
  InitEvent again;
  if (!decode_init_event({reinterpret_cast<const uint8_t*>(encoded.data()), encoded.size()}, again))
    std::abort();
  if (again.kind != event.kind || encoded.size() > kMaxInitMessage ||
      encode_again(again) != encoded)
    std::abort();
  return 0;
}
