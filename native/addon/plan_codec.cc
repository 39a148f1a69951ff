#include "addon/plan_codec.h"

#include <protozero/pbf_reader.hpp>

namespace bulkhead::addon {
namespace {

// Field numbers of launch_plan.proto.
constexpr uint32_t kPlanSteps = 3;
constexpr uint32_t kStepClone = 10;

}  // namespace

bool plan_has_clone(std::span<const uint8_t> plan) {
  try {
    protozero::pbf_reader reader(reinterpret_cast<const char*>(plan.data()), plan.size());
    while (reader.next(kPlanSteps, protozero::pbf_wire_type::length_delimited)) {
      protozero::pbf_reader step(reader.get_view());
      if (step.next(kStepClone)) return true;
    }
  } catch (const protozero::exception&) {
    return false;
  }
  return false;
}

}  // namespace bulkhead::addon
