// native-test [-v] [NAME-PART…]: runs the tests whose names contain one of the parts, one after the
// other.
#include <cstdio>
#include <cstring>
#include <vector>

#include "test/check.h"

namespace bulkhead::test {

namespace {

struct Case {
  const char* name;
  Body body;
};
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
int failures_of_this = 0;

bool wanted(const char* name, int argc, char** argv) {
  bool any = false;
  for (int i = 1; i < argc; i++) {
    any = true;
    if (std::strstr(name, argv[i]) != nullptr) return true;
  }
  return !any;
}

}  // namespace

Registration::Registration(const char* name, Body body) {
  cases().push_back({name, body});
}

void record_failure(const char* file, int line, const std::string& what) {
  failures_of_this++;
  std::printf("  %s:%d: %s\n", file, line, what.c_str());
}

int failures_so_far() {
  return failures_of_this;
}

void write_seeds(const std::string& directory);

int run_all(int argc, char** argv) {
  int passed = 0;
  int failed = 0;
  for (const Case& test : cases()) {
    if (!wanted(test.name, argc, argv)) continue;
    failures_of_this = 0;
    test.body();
    (failures_of_this == 0 ? passed : failed)++;
    std::printf("%s %s\n", failures_of_this == 0 ? "ok" : "not ok", test.name);
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed, 0 skipped\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace bulkhead::test

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--seeds") == 0) {
    bulkhead::test::write_seeds(argv[2]);
    return 0;
  }
  return bulkhead::test::run_all(argc, argv);
}
