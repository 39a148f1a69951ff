// The one thing that a launcher must know about a plan.
#pragma once

#include <cstdint>
#include <span>

namespace bulkhead::addon {

// Whether the plan has a Clone step, so that a second process comes. False for what does not
// decode: bulkhead-init refuses that.
bool plan_has_clone(std::span<const uint8_t> plan);

}  // namespace bulkhead::addon
