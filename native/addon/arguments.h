// JavaScript values to C++ ones, and errno to JavaScript errors. A function that returns false has
// thrown.
#pragma once

#include <napi.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/result.h"

namespace bulkhead::addon {

// Error with errno (positive, as in errno(3)), code ("ENOENT"), syscall and, when not empty, path.
// Text: "syscall path: reason".
Napi::Error make_errno(Napi::Env env, int error, std::string_view syscall,
                       std::string_view path = {});
// Throws it. Returns undefined, so that a binding can `return throw_errno(…)`.
Napi::Value throw_errno(Napi::Env env, int error, std::string_view syscall,
                        std::string_view path = {});
inline Napi::Value throw_error(Napi::Env env, const Error& error, std::string_view path = {}) {
  return throw_errno(env, error.code, error.op, path);
}
Napi::Value throw_type_error(Napi::Env env, std::string_view text);

// A string without NUL characters (the kernel would cut it there).
bool get_string(Napi::Value value, const char* name, std::string& out);
// Absent (undefined) leaves `out` as it is.
bool get_optional_string(Napi::Value value, const char* name, std::string& out);
// An integer in [low, high].
bool get_integer(Napi::Value value, const char* name, int64_t low, int64_t high, int64_t& out);
bool get_int(Napi::Value value, const char* name, int low, int high, int& out);
// A descriptor number, 0 or more.
bool get_fd(Napi::Value value, const char* name, int& out);
// Bytes of a Uint8Array or Buffer, borrowed for the call.
bool get_bytes(Napi::Value value, const char* name, std::span<const uint8_t>& out);
bool get_function(Napi::Value value, const char* name, Napi::Function& out);

}  // namespace bulkhead::addon
