// Answers to Task.State and Task.Connect that the engine left with the monitor (LeftAnswer in
// proto/executor.proto). They are bytes: what they say, the monitor does not know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

class LeftAnswers {
 public:
  // Replaces the answer to `request` of a method (empty: State); an empty response takes it back.
  // Beyond kMaxAnswers new ones are not kept: the engine answers those.
  void set(std::string_view method, std::span<const uint8_t> request,
           std::span<const uint8_t> response);
  void clear() { answers_.clear(); }
  // The frame that answers a request's payload on `stream`; empty when the engine has to.
  std::string frame_for(std::span<const uint8_t> payload, uint32_t stream) const;

 private:
  struct Answer {
    bool connects;
    std::string request;
    std::string response;
  };
  static constexpr size_t kMaxAnswers = 1024;

  std::vector<Answer> answers_;
};

}  // namespace bulkhead::shim
