#include "sentry/mounts.h"

#include <sys/sysmacros.h>

#include <algorithm>

#include "sentry/text.h"

namespace bulkhead::sentry {

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
MountTable parse_mounts(std::string_view text) {
  MountTable table;
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    uint64_t id = 0;
    uint64_t above = 0;
    uint64_t major = 0;
    uint64_t minor = 0;
    size_t type = line.find(" - ");
    if (type == std::string_view::npos || line.front() < '0' || line.front() > '9') continue;
    std::string_view numbers = line.substr(0, type);
    if (!take_number(numbers, id) || !take_number(numbers, above) || !take_number(numbers, major) ||
        !take_number(numbers, minor)) {
      continue;
    }
    table.ids.push_back(id);
    if (line.substr(type + 3).starts_with("proc "))
      table.proc.push_back(makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor)));
  }
  std::sort(table.ids.begin(), table.ids.end());
  return table;
}

}  // namespace bulkhead::sentry
