// Launch plans: any bytes are decoded or refused with a reason; what is accepted keeps its promises
// (texts end, slots and enums are in range) and means the same after being encoded again.
#include <cstdlib>
#include <cstring>

#include "init/plan_codec.h"
#include "test/plan_writer_codec.h"

namespace {

using namespace bulkhead;

void require(bool condition) {
  if (!condition) std::abort();
}

// Visits every field of a decoded step.
struct Checker {
  void operator()(uint32_t, bool) {}
  void operator()(uint32_t, uint32_t) {}
  void operator()(uint32_t, uint64_t) {}
  void operator()(uint32_t, Signed) {}
  void operator()(uint32_t, SlotId slot) { require(slot.value < kMaxSlots); }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(uint32_t, E value) { require(static_cast<uint32_t>(value) < enum_limit(value)); }
  void operator()(uint32_t, const Text& text) { require(std::strlen(text.c_str()) == text.size); }
  void operator()(uint32_t, const Bytes& bytes) {
    require(bytes.empty() || (bytes.data() >= low && bytes.data() + bytes.size() <= high));
  }
  void operator()(uint32_t, const std::vector<Text>& texts) {
    for (const Text& text : texts) (*this)(0, text);
  }
  void operator()(uint32_t, const std::vector<int32_t>&) {}
  void operator()(uint32_t, const std::vector<uint32_t>&) {}
  void operator()(uint32_t, const std::vector<IdMap>&) {}

  const uint8_t* low;
  const uint8_t* high;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Plan plan;
  PlanError error;
  if (!decode_plan({data, size}, plan, error)) {
    require(error.err != 0 && error.detail[0] != '\0');
    return 0;
  }
  require(plan.version == 1 && plan.steps.size() <= kMaxSteps);
  Checker checker{data, data + size};
  test::PlanText again;
  again.id = plan.id.view();
  for (Step& step : plan.steps) {
    std::visit([&](auto& body) { body.fields(checker); }, step.body);
    again.steps.push_back(step.body);
  }
  std::string encoded = test::encode_plan(again);
  Plan second;
  require(decode_plan({reinterpret_cast<const uint8_t*>(encoded.data()), encoded.size()}, second,
                      error));
  test::PlanText third;
  third.id = second.id.view();
  for (Step& step : second.steps) third.steps.push_back(step.body);
  require(test::encode_plan(third) == encoded);
  return 0;
}
