#include "addon/arguments.h"

#include <string.h>
#include <uv.h>

#include <cmath>

namespace bulkhead::addon {
namespace {

// "ENOENT". uv's table is complete enough only for what libuv uses.
std::string errno_name(int error) {
#ifdef __GLIBC__
  if (const char* name = ::strerrorname_np(error); name != nullptr) return name;
#else
  if (const char* name = ::uv_err_name(-error); name != nullptr) return name;
#endif
  return std::to_string(error);
}

std::string errno_text(int error) {
  char buffer[128];
  // GNU's strerror_r may return a constant string instead of filling the buffer.
  std::string text = ::strerror_r(error, buffer, sizeof(buffer));
  if (text.size() > 1 && text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a' && text[1] <= 'z') {
    text[0] = static_cast<char>(text[0] - 'A' + 'a');
  }
  return text;
}

}  // namespace

Napi::Error make_errno(Napi::Env env, int error, std::string_view syscall, std::string_view path) {
  std::string text(syscall);
  if (!path.empty()) text.append(" ").append(path);
  text.append(": ").append(errno_text(error));
  Napi::Error made = Napi::Error::New(env, text);
  Napi::Object object = made.Value();
  object.Set("errno", Napi::Number::New(env, error));
  object.Set("code", Napi::String::New(env, errno_name(error)));
  object.Set("syscall", Napi::String::New(env, std::string(syscall)));
  if (!path.empty()) object.Set("path", Napi::String::New(env, std::string(path)));
  return made;
}

Napi::Value throw_errno(Napi::Env env, int error, std::string_view syscall, std::string_view path) {
  make_errno(env, error, syscall, path).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value throw_type_error(Napi::Env env, std::string_view text) {
  Napi::TypeError::New(env, std::string(text)).ThrowAsJavaScriptException();
  return env.Undefined();
}

bool get_string(Napi::Value value, const char* name, std::string& out) {
  if (!value.IsString()) {
    throw_type_error(value.Env(), std::string(name) + ": expected a string");
    return false;
  }
  out = value.As<Napi::String>().Utf8Value();
  if (out.find('\0') != std::string::npos) {
    throw_type_error(value.Env(), std::string(name) + ": contains a NUL character");
    return false;
  }
  return true;
}

bool get_optional_string(Napi::Value value, const char* name, std::string& out) {
  return value.IsUndefined() || get_string(value, name, out);
}

bool get_integer(Napi::Value value, const char* name, int64_t low, int64_t high, int64_t& out) {
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (std::nearbyint(number) == number && number >= static_cast<double>(low) &&
        number <= static_cast<double>(high)) {
      out = static_cast<int64_t>(number);
      return true;
    }
  }
  throw_type_error(value.Env(), std::string(name) + ": expected an integer from " +
                                    std::to_string(low) + " to " + std::to_string(high));
  return false;
}

bool get_int(Napi::Value value, const char* name, int low, int high, int& out) {
  int64_t wide = 0;
  if (!get_integer(value, name, low, high, wide)) return false;
  out = static_cast<int>(wide);
  return true;
}

bool get_fd(Napi::Value value, const char* name, int& out) {
  return get_int(value, name, 0, INT32_MAX, out);
}

bool get_bytes(Napi::Value value, const char* name, std::span<const uint8_t>& out) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw_type_error(value.Env(), std::string(name) + ": expected a Uint8Array");
    return false;
  }
  const auto array = value.As<Napi::Uint8Array>();
  out = {array.Data(), array.ByteLength()};
  return true;
}

bool get_function(Napi::Value value, const char* name, Napi::Function& out) {
  if (!value.IsFunction()) {
    throw_type_error(value.Env(), std::string(name) + ": expected a function");
    return false;
  }
  out = value.As<Napi::Function>();
  return true;
}

}  // namespace bulkhead::addon
