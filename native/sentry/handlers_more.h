// Handlers that make descriptors, or read procfs.
#pragma once

#include "sentry/handlers.h"

namespace bulkhead::sentry {

// handlers_fd.cc
Answer make_eventfd(const Sandbox&, Caller&);
Answer make_timerfd(const Sandbox&, Caller&);
Answer make_epoll(const Sandbox&, Caller&);

// handlers_process.cc
Answer process_group(const Sandbox&, Caller&);
Answer resource_usage(const Sandbox&, Caller&);
Answer cpu_times(const Sandbox&, Caller&);
Answer get_priority(const Sandbox&, Caller&);
Answer get_affinity(const Sandbox&, Caller&);
Answer get_ids(const Sandbox&, Caller&);

}  // namespace bulkhead::sentry
