// Entry of addon.node.
#include <napi.h>

#include "addon/bindings.h"
#include "addon/launch.h"
#include "addon/poll.h"

namespace bulkhead::addon {
namespace {

Napi::Value launch_function(const Napi::CallbackInfo& info) {
  return EnvState::of(info.Env())->launch_class.New({info[0], info[1]});
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  EnvState::install(env);
  Launch::define(env, *EnvState::of(env));
  define<launch_function>(env, exports, "launch");
  define_process(env, exports);
  define_files(env, exports);
  define_lend(env, exports);
  define_memory(env, exports);
  define_mapped(env, exports);
  define_sockets(env, exports);
  define_vsock(env, exports);
  define_terminal(env, exports);
  define_cgroup(env, exports);
  define_seccomp(env, exports);
  define_network(env, exports);
  return exports;
}

NODE_API_MODULE(addon, init)

}  // namespace
}  // namespace bulkhead::addon
