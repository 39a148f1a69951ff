// Lines on the guest's console, and with a session as events for the host.
#pragma once

#include <string>
#include <string_view>

namespace bulkhead::agent {

// Who else gets the lines; nullptr: nobody. `sink` must not log itself.
void set_log_sink(void (*sink)(void* owner, std::string_view level, std::string_view message),
                  void* owner);

void log_warning(std::string_view message);
void log_error(std::string_view message);

// "what: reason of err".
std::string describe(std::string_view what, int err);

}  // namespace bulkhead::agent
