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

std::string encode_to_init(bool proceed);
// False: malformed.
bool decode_to_init(std::span<const uint8_t> bytes, bool& proceed);

}  // namespace bulkhead
