// Lines for containerd's log: logfmt into the bundle's `log` fifo, of which containerd copies every
// line to its own.
#pragma once

#include <string>
#include <string_view>

namespace bulkhead::shim {

// Opens ./log (the bundle is the working directory) as standard error. Without a reader, or without
// a fifo, standard error stays what it is. The fifo never blocks: what does not fit is lost.
void open_log(std::string_view group);

// One line: time, level, msg, runtime and id. Quotes and control characters are escaped.
void log_info(std::string_view message);
void log_warning(std::string_view message);

// "what: reason of err" for a log line or a sentence, e.g. "/run/x: connect: no such file or
// directory".
std::string describe(std::string_view what, int err);

}  // namespace bulkhead::shim
