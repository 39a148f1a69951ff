#include "agent/log.h"

#include <unistd.h>

#include <cctype>
#include <cstring>

namespace bulkhead::agent {

namespace {

void (*sink_)(void*, std::string_view, std::string_view) = nullptr;
void* sink_owner_ = nullptr;

// What a workload can put into a message (names, paths) must not forge lines or move a terminal's
// cursor.
std::string printable(std::string_view message) {
  constexpr size_t kLongest = 1024;
  std::string text(message.substr(0, kLongest));
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c))) c = '?';
  }
  return text;
}

void log(std::string_view level, std::string_view message) {
  const std::string text = printable(message);
  const std::string line = "bulkhead-agent: " + std::string(level) + ": " + text + "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  if (sink_ != nullptr) sink_(sink_owner_, level, text);
}

}  // namespace

void set_log_sink(void (*sink)(void*, std::string_view, std::string_view), void* owner) {
  sink_ = sink;
  sink_owner_ = owner;
}

void log_warning(std::string_view message) {
  log("warning", message);
}
void log_error(std::string_view message) {
  log("error", message);
}

std::string describe(std::string_view what, int err) {
  std::string text(what);
  text += ": ";
  text += ::strerror(err);
  // The C library's sentences begin with a capital letter.
  char& first = text[what.size() + 2];
  first = static_cast<char>(std::tolower(static_cast<unsigned char>(first)));
  return text;
}

}  // namespace bulkhead::agent
