// SHA-256 (FIPS 180-4), for the name of the shim's socket only; not used where secrecy matters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bulkhead::shim {

// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view text);

}  // namespace bulkhead::shim
