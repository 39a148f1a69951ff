#include "sentry/text.h"

namespace bulkhead::sentry {

bool take_number(std::string_view& text, uint64_t& value) {
  size_t at = text.find_first_of("0123456789");
  if (at == std::string_view::npos) return false;
  value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + static_cast<uint64_t>(text[at++] - '0');
  }
  text.remove_prefix(at);
  return true;
}

std::string_view status_field(std::string_view status, std::string_view name) {
  size_t at = 0;
  while (at < status.size()) {
    size_t end = status.find('\n', at);
    if (end == std::string_view::npos) end = status.size();
    std::string_view line = status.substr(at, end - at);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == ':')
      return line.substr(name.size() + 1);
    at = end + 1;
  }
  return {};
}

}  // namespace bulkhead::sentry
