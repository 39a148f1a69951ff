// A very small test runner: TEST(name) { CHECK(…); CHECK_EQ(…, …); }
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bulkhead::test {

using Body = void (*)();
struct Registration {
  Registration(const char* name, Body body);
};
// Notes a failure of the running test and goes on.
void record_failure(const char* file, int line, const std::string& what);
// How many the running test has: for a test's forked half, which cannot note them here.
int failures_so_far();

inline std::string show(std::string_view value) {
  return "\"" + std::string(value) + "\"";
}
inline std::string show(const std::string& value) {
  return show(std::string_view(value));
}
inline std::string show(const char* value) {
  return show(std::string_view(value));
}
template <class T>
std::string show(const T& value) {
  return std::to_string(value);
}

template <class A, class B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (!(a == b)) record_failure(file, line, std::string(text) + ": " + show(a) + " and " + show(b));
}

}  // namespace bulkhead::test

#define TEST(name)                                                               \
  static void test_##name();                                                     \
  static ::bulkhead::test::Registration registration_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) ::bulkhead::test::record_failure(__FILE__, __LINE__, #condition); \
  } while (0)
#define CHECK_EQ(a, b) ::bulkhead::test::check_equal((a), (b), #a " == " #b, __FILE__, __LINE__)
#define REQUIRE(condition)                                                           \
  do {                                                                               \
    if (!(condition)) {                                                              \
      ::bulkhead::test::record_failure(__FILE__, __LINE__, "required: " #condition); \
      return;                                                                        \
    }                                                                                \
  } while (0)
