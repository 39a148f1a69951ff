// The handlers by file.
#pragma once

#include "sentry/handlers.h"

namespace bulkhead::sentry {

// handlers_fd.cc
// Until no descriptor that was handed over is the supervisor's still.
void settle_hand_overs();
Answer hand_over(Caller& caller, UniqueFd fd, bool close_on_exec);
Answer make_eventfd(const Sandbox&, Caller&);
Answer make_timerfd(const Sandbox&, Caller&);
Answer make_epoll(const Sandbox&, Caller&);
Answer make_epoll_with_flags(const Sandbox&, Caller&);
Answer make_inotify(const Sandbox&, Caller&);
Answer set_timerfd(const Sandbox&, Caller&);
Answer remove_watch(const Sandbox&, Caller&);
Answer socket_state(const Sandbox&, Caller&);
Answer socket_name(const Sandbox&, Caller&);
Answer lock_file(const Sandbox&, Caller&);
Answer synchronize(const Sandbox&, Caller&);

// handlers_process.cc
Answer process_group(const Sandbox&, Caller&);
Answer resource_usage(const Sandbox&, Caller&);
Answer cpu_times(const Sandbox&, Caller&);
Answer get_priority(const Sandbox&, Caller&);
Answer get_affinity(const Sandbox&, Caller&);
Answer get_ids(const Sandbox&, Caller&);

// handlers_open.cc
Answer open_file(const Sandbox&, Caller&);

// handlers_look.cc
Answer stat_file(const Sandbox&, Caller&);
Answer statx_file(const Sandbox&, Caller&);
Answer access_file(const Sandbox&, Caller&);
Answer read_link(const Sandbox&, Caller&);
Answer stat_file_system(const Sandbox&, Caller&);
Answer watch_file(const Sandbox&, Caller&);
Answer working_directory(const Sandbox&, Caller&);

// handlers_names.cc
Answer make_directory(const Sandbox&, Caller&);
Answer make_node(const Sandbox&, Caller&);
Answer unlink_name(const Sandbox&, Caller&);
Answer rename_file(const Sandbox&, Caller&);
Answer link_file(const Sandbox&, Caller&);
Answer make_symlink(const Sandbox&, Caller&);

// handlers_mount.cc
Answer mount_file_system(const Sandbox&, Caller&);
Answer unmount(const Sandbox&, Caller&);

// handlers_attributes.cc
Answer change_mode(const Sandbox&, Caller&);
Answer change_owner(const Sandbox&, Caller&);
Answer change_times(const Sandbox&, Caller&);
Answer truncate_file(const Sandbox&, Caller&);

// handlers_notice.cc
Answer credentials_change(const Sandbox&, Caller&);
Answer execution(const Sandbox&, Caller&);
Answer umask_change(const Sandbox&, Caller&);
Answer root_change(const Sandbox&, Caller&);

}  // namespace bulkhead::sentry
