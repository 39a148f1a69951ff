// Answers to Task.State that the engine left with the monitor (StateAnswer in
// proto/executor.proto). They are bytes: what a state is, the monitor does not know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

class StateAnswers {
 public:
  // Replaces the answer to `request`; an empty response takes it back. Beyond kMaxAnswers new ones
  // are not kept: the engine answers those.
  void set(std::span<const uint8_t> request, std::span<const uint8_t> response);
  void clear() { answers_.clear(); }
  // The frame that answers a request's payload on `stream`; empty when the engine has to.
  std::string frame_for(std::span<const uint8_t> payload, uint32_t stream) const;

 private:
  struct Answer {
    std::string request;
    std::string response;
  };
  static constexpr size_t kMaxAnswers = 1024;

  std::vector<Answer> answers_;
};

}  // namespace bulkhead::shim
