#include "shim/state_answers.h"

#include <algorithm>

namespace bulkhead::shim {

namespace {

std::string_view view(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_state(const TtrpcCall& call) {
  return call.method == "State" &&
         (call.service == "containerd.task.v2.Task" || call.service == "containerd.task.v3.Task");
}

}  // namespace

void StateAnswers::set(std::span<const uint8_t> request, std::span<const uint8_t> response) {
  auto known = std::find_if(answers_.begin(), answers_.end(),
                            [&](const Answer& answer) { return answer.request == view(request); });
  if (response.empty()) {
    if (known != answers_.end()) answers_.erase(known);
  } else if (known != answers_.end()) {
    known->response = view(response);
  } else if (answers_.size() < kMaxAnswers) {
    answers_.push_back({std::string(view(request)), std::string(view(response))});
  }
}

std::string StateAnswers::frame_for(std::span<const uint8_t> payload, uint32_t stream) const {
  if (answers_.empty()) return {};
  TtrpcCall call = look_at_call(payload);
  if (!is_state(call)) return {};
  for (const Answer& answer : answers_) {
    if (answer.request != view(call.payload)) continue;
    return answer_frame(
        stream, {reinterpret_cast<const uint8_t*>(answer.response.data()), answer.response.size()});
  }
  return {};
}

}  // namespace bulkhead::shim
