#include "shim/log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <cstring>

#include "core/fd.h"

namespace bulkhead::shim {

namespace {

char log_group[80];
bool log_open = false;

// Bytes are kept as they are except what would end the value or the line.
size_t escape(std::string_view text, char* out, size_t room) {
  size_t used = 0;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (used + 4 > room) break;
    if (byte < 0x20 || byte == 0x7f) {
      out[used++] = '?';
      continue;
    }
    if (c == '"' || c == '\\') out[used++] = '\\';
    out[used++] = c;
  }
  return used;
}

void write_line(const char* level, std::string_view message) {
  if (!log_open) return;
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  ::gmtime_r(&now.tv_sec, &utc);
  char text[600];
  char id[170];
  int text_length = static_cast<int>(escape(message, text, sizeof text));
  int id_length = static_cast<int>(escape(log_group, id, sizeof id));
  char line[1024];
  int length =
      std::snprintf(line, sizeof line,
                    "time=\"%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ\" level=%s msg=\"%.*s\" "
                    "runtime=bulkhead id=\"%.*s\"\n",
                    utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                    utc.tm_sec, now.tv_nsec, level, text_length, text, id_length, id);
  if (length > 0) (void)!::write(STDERR_FILENO, line, static_cast<size_t>(length));
}

}  // namespace

void open_log(std::string_view group) {
  size_t length = group.size() < sizeof log_group - 1 ? group.size() : sizeof log_group - 1;
  std::memcpy(log_group, group.data(), length);
  UniqueFd fifo(::open("log", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  struct stat info;
  if (!fifo || ::fstat(fifo.get(), &info) < 0 || !S_ISFIFO(info.st_mode)) return;
  log_open = ::dup2(fifo.get(), STDERR_FILENO) >= 0;
}

void log_info(std::string_view message) {
  write_line("info", message);
}

void log_warning(std::string_view message) {
  write_line("warning", message);
}

std::string describe(std::string_view what, int err) {
  std::string text(what);
  text += ": ";
  std::string reason = ::strerror(err);
  // Only a capital that begins a word: "No such file", not "RPC".
  if (reason.size() > 1 && std::islower(static_cast<unsigned char>(reason[1])) != 0) {
    reason[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(reason[0])));
  }
  return text + reason;
}

}  // namespace bulkhead::shim
