// The texts that procfs gives.
#pragma once

#include <cstdint>
#include <string_view>

namespace bulkhead::sentry {

// Decimal digits at the start of `text`, which shrinks by them and by what stands before. False:
// none.
bool take_number(std::string_view& text, uint64_t& value);

// Value of a line "Name:\tvalue" of a status file; empty when it has none.
std::string_view status_field(std::string_view status, std::string_view name);

}  // namespace bulkhead::sentry
