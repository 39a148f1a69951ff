// Decoding of the launch plan. Has no side effects; everything it accepts is safe to carry out as
// far as sizes, slot numbers and enums go.
#pragma once

#include <cstdint>
#include <span>

#include "init/plan.h"

namespace bulkhead {

// Largest plan, and most steps in one.
inline constexpr size_t kMaxPlan = 8u << 20;
inline constexpr size_t kMaxSteps = 65536;

struct PlanError {
  uint32_t index = 0;
  uint32_t action = 0;
  // EBADMSG: malformed or out of bounds; EPROTONOSUPPORT: other version; ENOSYS: unknown step or
  // field.
  int err = 0;
  const char* detail = "";
};

// Decodes `bytes` (which must outlive `plan`). Strict: a field or step that this executor does not
// know is refused, because ignoring it could leave a protection out.
bool decode_plan(std::span<const uint8_t> bytes, Plan& plan, PlanError& error);

}  // namespace bulkhead
