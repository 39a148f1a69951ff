// Encoding and decoding of the sync socket's messages (FromInit, ToInit of proto/executor.proto).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/launch.h"

namespace bulkhead {

std::string encode_cloned(pid_t pid);
std::string encode_paused(std::string_view point);
std::string encode_console();
// Paths and details are cut so that the message fits into kMaxInitMessage.
std::string encode_failure(const StepFailure& failure);
std::string encode_warning(const StepFailure& failure);

// What a spare is told by its second argument.
inline constexpr char kSpare[] = "spare";
inline constexpr char kSpareWithNetwork[] = "spare-with-network";

struct ToInit {
  bool proceed = false;
  // To a spare: which standard streams ride along after the plan, by bit.
  uint32_t streams = 0;
};
// The plan and three streams.
inline constexpr size_t kMaxToInitDescriptors = 4;

std::string encode_to_init(const ToInit& answer);
// False: malformed.
bool decode_to_init(std::span<const uint8_t> bytes, ToInit& answer);

}  // namespace bulkhead
