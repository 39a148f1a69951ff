// Results that carry an errno instead of an exception.
#pragma once

#include <cerrno>
#include <utility>

namespace bulkhead {

// What failed: the errno and the operation ("clone", "open", …), a string with static lifetime.
struct Error {
  int code = 0;
  const char* op = "";
};

inline Error last_error(const char* op) {
  return Error{errno, op};
}

// A value or an Error. T must be default constructible and movable.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Error error) : error_(error) {          // NOLINT: implicit on purpose
    if (error_.code == 0) error_.code = EIO;
  }

  bool ok() const { return error_.code == 0; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return error_; }
  T& value() { return value_; }
  const T& value() const { return value_; }
  T take() { return std::move(value_); }
  T* operator->() { return &value_; }
  T& operator*() { return value_; }

 private:
  T value_{};
  Error error_{};
};

struct Unit {};
using Status = Result<Unit>;
inline Status success() {
  return Unit{};
}

}  // namespace bulkhead
