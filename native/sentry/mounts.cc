#include "sentry/mounts.h"

#include <sys/sysmacros.h>

#include <algorithm>

#include "sentry/text.h"

namespace bulkhead::sentry {

namespace {

// Of what is left of a line after its device number: " /mnt1 /mnt2 rw,…".
std::string_view mount_point(std::string_view rest) {
  for (int field = 0; field < 2; field++) {
    rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  }
  return rest.substr(0, rest.find(' '));
}

bool is_guarded(std::string_view point) {
  for (std::string_view top : {"/proc", "/sys", "/dev"}) {
    if (point.starts_with(top) && (point.size() == top.size() || point[top.size()] == '/'))
      return true;
  }
  return false;
}

}  // namespace

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
    if (is_guarded(mount_point(numbers))) table.guarded.push_back(id);
    if (line.substr(type + 3).starts_with("proc "))
      table.proc.push_back(makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor)));
  }
  std::sort(table.ids.begin(), table.ids.end());
  std::sort(table.guarded.begin(), table.guarded.end());
  return table;
}

}  // namespace bulkhead::sentry
