#include "shim/left_answers.h"

#include <algorithm>

namespace bulkhead::shim {

namespace {

std::string_view view(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

constexpr std::string_view kConnect = "Connect";

bool is_of_task(const TtrpcCall& call) {
  return call.service == "containerd.task.v2.Task" || call.service == "containerd.task.v3.Task";
}

}  // namespace

void LeftAnswers::set(std::string_view method, std::span<const uint8_t> request,
                      std::span<const uint8_t> response) {
  if (!method.empty() && method != kConnect) return;
  const bool connects = method == kConnect;
  auto known = std::find_if(answers_.begin(), answers_.end(), [&](const Answer& answer) {
    return answer.connects == connects && answer.request == view(request);
  });
  if (response.empty()) {
    if (known != answers_.end()) answers_.erase(known);
  } else if (known != answers_.end()) {
    known->response = view(response);
  } else if (answers_.size() < kMaxAnswers) {
    answers_.push_back({connects, std::string(view(request)), std::string(view(response))});
  }
}

std::string LeftAnswers::frame_for(std::span<const uint8_t> payload, uint32_t stream) const {
  if (answers_.empty()) return {};
  TtrpcCall call = look_at_call(payload);
  const bool connects = call.method == kConnect;
  if (!is_of_task(call) || (!connects && call.method != "State")) return {};
  for (const Answer& answer : answers_) {
    if (answer.connects != connects || answer.request != view(call.payload)) continue;
    return answer_frame(
        stream, {reinterpret_cast<const uint8_t*>(answer.response.data()), answer.response.size()});
  }
  return {};
}

}  // namespace bulkhead::shim
