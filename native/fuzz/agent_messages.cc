// What a host may say to a guest's agent: any bytes are decoded or refused, every view lies within
// them, limits hold, and what the agent encodes of it is well-formed.
#include <cstdlib>
#include <protozero/pbf_reader.hpp>

#include "agent/messages.h"
#include "agent/network.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::agent;

const uint8_t* low;
const uint8_t* high;

void require(bool holds) {
  if (!holds) std::abort();
}

void within(const void* data, size_t size) {
  if (size == 0) return;
  const auto* at = static_cast<const uint8_t*>(data);
  require(at >= low && at + size <= high);
}

// The kind of a message of ours, whose fields are whole to the last byte.
uint32_t kind_of(const std::string& message) {
  protozero::pbf_reader outer(message);
  uint32_t kind = 0;
  while (outer.next()) {
    kind = outer.tag();
    if (outer.wire_type() == protozero::pbf_wire_type::length_delimited) {
      protozero::pbf_reader body = outer.get_message();
      while (body.next()) body.skip();
    } else {
      outer.skip();
    }
  }
  return kind;
}

void check_call(const Call& call) {
  if (const auto* setup = std::get_if<Setup>(&call)) {
    require(setup->entropy.size() <= kMaxEntropy && setup->sysctls.size() <= kMaxPaths);
  } else if (const auto* read = std::get_if<ReadFiles>(&call)) {
    require(read->paths.size() <= kMaxPaths);
    CallReply reply;
    for (const std::string& path : read->paths) reply.files.push_back({path, path, 2});
    kind_of(encode_call_reply(reply));
  } else if (const auto* write = std::get_if<WriteFiles>(&call)) {
    require(write->files.size() <= kMaxPaths);
  } else if (const auto* remove = std::get_if<Remove>(&call)) {
    require(remove->paths.size() <= kMaxPaths);
  } else if (const auto* network = std::get_if<NetworkSetup>(&call)) {
    GuestNetwork decoded;
    decode_guest_network(
        {reinterpret_cast<const uint8_t*>(network->encoded.data()), network->encoded.size()},
        decoded);
  } else if (const auto* bind = std::get_if<BindVfio>(&call)) {
    require(bind->pci_paths.size() <= kMaxFunctions);
    CallReply reply;
    for (const std::string& path : bind->pci_paths)
      reply.functions.push_back({path, bind->timeout_ms, {Device{path, path, path, 1, 2}}});
    kind_of(encode_call_reply(reply));
  } else if (const auto* mount = std::get_if<Mount>(&call)) {
    CallReply reply = CallReply::failed("mount", mount->target, 0);
    require(reply.err != 0);
    reply.has_device = true;
    reply.device.name = mount->device.text;
    kind_of(encode_call_reply(reply));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  low = data;
  high = data + size;
  Call call;
  if (decode_call({data, size}, call)) check_call(call);
  ToAgent message;
  if (!decode_to_agent({data, size}, message)) return 0;
  within(message.key.data(), message.key.size());
  within(message.plan.data(), message.plan.size());
  within(message.dies_with.data(), message.dies_with.size());
  within(message.call.data(), message.call.size());
  Call inner;
  if (decode_call(message.call, inner)) check_call(inner);
  const ProcessState process{message.key,     message.signal, message.dies_with, true, 9,
                             message.request, false};
  require(kind_of(encode_hello(message.key, "6.12", message.request, encode_process(process))) ==
          1);
  require(kind_of(encode_answer(message.request, 5, message.dies_with)) == 11);
  require(kind_of(encode_oom_event(message.key, message.request)) == 12);
  require(kind_of(encode_log_event("error", message.key)) == 12);
  return 0;
}
