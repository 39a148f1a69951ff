// What the supervisor parses: files of procfs, in which a workload chooses names, and the policy.
#include <cstdlib>
#include <string_view>

#include "sentry/identity.h"
#include "sentry/mounts.h"
#include "sentry/text.h"
#include "sentry/verdict.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bulkhead::sentry;
  std::string_view text(reinterpret_cast<const char*>(data), size);

  Identity identity;
  if (parse_identity(text, identity) && (identity.groups.size() > 256 || identity.umask > 0777))
    std::abort();

  MountTable table = parse_mounts(text);
  for (size_t i = 1; i < table.ids.size(); i++) {
    if (table.ids[i - 1] > table.ids[i]) std::abort();
  }
  if (table.proc.size() > table.ids.size()) std::abort();

  std::string_view rest = text;
  uint64_t number = 0;
  size_t before = rest.size();
  while (take_number(rest, number)) {
    if (rest.size() >= before) std::abort();
    before = rest.size();
  }

  // A policy that was understood decides everything, and always the same.
  Policy policy;
  if (policy.parse(text) && size >= sizeof(seccomp_data)) {
    seccomp_data call;
    __builtin_memcpy(&call, data, sizeof call);
    if (policy.decide(call).action != policy.decide(call).action) std::abort();
  }
  return 0;
}
