// Encoding of launch plans from the executor's own structs; only tests and fuzzers make plans in
// C++.
#pragma once

#include <string>
#include <vector>

#include "init/plan.h"

namespace bulkhead::test {

struct PlanText {
  uint32_t version = 1;
  std::string id = "test";
  std::vector<StepBody> steps;
};

// The bytes of a LaunchPlan.
std::string encode_plan(const PlanText& plan);

// A Text of a string that lives as long as the program.
Text text(std::string_view value);
std::vector<Text> texts(std::initializer_list<std::string_view> values);
// Bytes of a string that lives as long as the program.
Bytes bytes(std::string_view value);

}  // namespace bulkhead::test
