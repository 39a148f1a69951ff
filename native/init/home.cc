#include "init/home.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "init/resolve.h"

namespace bulkhead {

namespace {

constexpr size_t kMaxPasswd = size_t{1} << 20;

std::string read_passwd() {
  std::string text;
  UniqueFd file = open_in_root(AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY);
  struct stat info;
  if (!file || ::fstat(file.get(), &info) < 0 || !S_ISREG(info.st_mode)) return text;
  char buffer[4096];
  while (text.size() < kMaxPasswd) {
    ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got <= 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text;
}

// Field `wanted`, counted from 0, of a line "name:password:uid:gid:comment:home:shell".
std::string_view field(std::string_view line, int wanted) {
  for (; wanted > 0; wanted--) {
    size_t colon = line.find(':');
    if (colon == std::string_view::npos) return {};
    line.remove_prefix(colon + 1);
  }
  return line.substr(0, line.find(':'));
}

}  // namespace

std::string home_of(uid_t uid) {
  std::string text = read_passwd();
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() == rest.size() ? line.size() : line.size() + 1);
    std::string_view id = field(line, 2);
    uid_t entry = 0;
    auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), entry);
    if (id.empty() || error != std::errc() || end != id.data() + id.size() || entry != uid)
      continue;
    std::string_view home = field(line, 5);
    if (home.empty() || home.find('\0') != std::string_view::npos) break;
    return std::string(home);
  }
  return "/";
}

}  // namespace bulkhead
