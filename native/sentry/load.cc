#include "sentry/load.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstdint>
#include <string_view>

#include "sentry/text.h"

namespace bulkhead::sentry {

void Load::open(const char* path) {
  cpu_set_t own;
  if (::sched_getaffinity(0, sizeof own, &own) == 0)
    processors_ = static_cast<unsigned>(CPU_COUNT(&own));
  file_.reset(::open(path, O_RDONLY | O_CLOEXEC));
}

// "0.20 0.18 0.12 1/80 11206": the fourth field.
unsigned Load::running() const {
  char text[128];
  ssize_t got = file_ ? ::pread(file_.get(), text, sizeof text, 0) : -1;
  if (got <= 0) return 0;
  std::string_view rest(text, static_cast<size_t>(got));
  size_t slash = rest.find('/');
  if (slash == std::string_view::npos) return 0;
  rest = rest.substr(0, slash);
  rest.remove_prefix(rest.rfind(' ') + 1);
  uint64_t count = 0;
  return take_number(rest, count) ? static_cast<unsigned>(count) : 0;
}

bool Load::has_room() const {
  unsigned count = running();
  return count != 0 && count <= processors_;
}

bool Load::is_crowded() const {
  return running() > processors_ + 1;
}

}  // namespace bulkhead::sentry
