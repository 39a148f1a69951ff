// A descriptor watched on the event loop of the environment (main thread or worker) that called.
#pragma once

#include <napi.h>
#include <uv.h>

#include <functional>
#include <initializer_list>
#include <unordered_set>

namespace bulkhead::addon {

class Poll;

// One watched descriptor. Outlives its Poll until libuv has closed the handle.
struct Watch {
  uv_poll_t handle{};
  Poll* owner = nullptr;
  napi_env env = nullptr;
  napi_async_context context = nullptr;
  std::function<void(Napi::Env)> on_ready;
  class EnvState* state = nullptr;
};

// What the addon keeps for one environment: its open watches, which must be closed before a
// worker's loop ends.
class EnvState {
 public:
  // Installs itself as the environment's instance data.
  static void install(Napi::Env env);
  static EnvState* of(Napi::Env env) { return env.GetInstanceData<EnvState>(); }

  void add(Watch* watch) { watches_.insert(watch); }
  void closed(Watch* watch);

  // Constructor of LaunchHandle.
  Napi::FunctionReference launch_class;

 private:
  static void on_env_cleanup(napi_async_cleanup_hook_handle handle, void* self);
  void finish_cleanup();

  std::unordered_set<Watch*> watches_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool closing_ = false;
};

// Calls back while a descriptor is readable. Stops when destroyed, and when the environment ends.
class Poll {
 public:
  Poll() = default;
  ~Poll() { stop(); }
  Poll(const Poll&) = delete;
  Poll& operator=(const Poll&) = delete;

  // Watches `fd` (borrowed; keep it open until stop). `on_ready` runs inside a JavaScript callback
  // scope: promises and ticks that it queues run after it. It is destroyed on the loop some time
  // after stop, so objects that it holds live until then. Returns 0 or an errno.
  int start(Napi::Env env, int fd, const char* resource, std::function<void(Napi::Env)> on_ready);
  // Idempotent; allowed inside on_ready.
  void stop();
  bool active() const { return watch_ != nullptr; }
  // Lets the event loop end although this is watched.
  void unref();

 private:
  friend class EnvState;
  Watch* watch_ = nullptr;
};

// Calls `function`; what it throws becomes an uncaught exception, as in any event handler.
void emit(Napi::Env env, const Napi::Function& function, std::initializer_list<napi_value> values);

}  // namespace bulkhead::addon
