// ReadFiles, WriteFiles, AwaitFile and Remove of agent.proto.
#pragma once

#include <string>

#include "agent/messages.h"

namespace bulkhead::agent {

CallReply read_files(const ReadFiles& call);
CallReply write_files(const WriteFiles& call);
// Blocks: for a worker.
CallReply await_file(const AwaitFile& call);
CallReply remove_all(const Remove& call);

// mkdir -p. 0 or an errno.
int make_directories(const std::string& path);
// Only files of which reading (writing) is known not to wait for anybody: the kernel's own.
bool never_waits(const ReadFiles& call);
bool never_waits(const WriteFiles& call);

}  // namespace bulkhead::agent
