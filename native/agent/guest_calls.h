// Mount, Unmount, Setup, OnlineCpus, OnlineMemory, CleanMemory, Sync and BindVfio of
// agent.proto. All but set_up() may wait: for a worker.
#pragma once

#include "agent/messages.h"

namespace bulkhead::agent {

CallReply set_up(const Setup& call);

CallReply mount_one(const Mount& call);
CallReply unmount_one(const Unmount& call);
CallReply online_cpus(const OnlineCpus& call);
CallReply online_memory(const OnlineMemory& call);
CallReply clean_memory(const CleanMemory& call);
CallReply sync_all(const Sync& call);
CallReply bind_vfio(const BindVfio& call);

}  // namespace bulkhead::agent
