// LaunchHandle of src/native/addon.d.ts: one bulkhead-init and what becomes of it.
#pragma once

#include <napi.h>

#include <functional>
#include <string>

#include "addon/poll.h"
#include "core/fd.h"
#include "core/launch.h"
#include "core/pidfd.h"

namespace bulkhead::addon {

// States of a launch, told by which descriptors are open:
//
//   sync_      open until end of file: reports come
//   outer_     open until the outer stage is reaped
//   process_   open from Cloned on, until the container's process is reaped
//
// A plan without Clone has no second process: outer_ is the process. `exited` is emitted when all
// are closed, so it is last.
class Launch : public Napi::ObjectWrap<Launch> {
 public:
  static void define(Napi::Env env, EnvState& state);

  // (options: LaunchOptions, onEvent)
  explicit Launch(const Napi::CallbackInfo& info);

 private:
  Napi::Value pid(const Napi::CallbackInfo& info);
  Napi::Value proceed(const Napi::CallbackInfo& info);
  Napi::Value abandon(const Napi::CallbackInfo& info);
  Napi::Value signal(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);

  bool begin(const Napi::CallbackInfo& info);
  std::function<void(Napi::Env)> guarded(void (Launch::*handler)(Napi::Env));
  int watch_all(Napi::Env env);
  // Reads reports until there are no more.
  void on_sync(Napi::Env env);
  void handle(Napi::Env env, InitEvent& event);
  int adopt(Napi::Env env, pid_t pid);
  void on_outer_exit(Napi::Env env);
  void on_process_exit(Napi::Env env);
  void on_sync_end(Napi::Env env);
  void dismiss();
  bool died_before_exec() const;
  void finish_if_over(Napi::Env env);
  // Stops watching and closes everything; no more events.
  void let_go();
  void send(Napi::Env env, const Napi::Object& event);
  void send_started(Napi::Env env);
  void send_failure(Napi::Env env, const char* type, const StepFailure& failure);

  Napi::FunctionReference on_event_;
  UniqueFd sync_;
  UniqueFd outer_;
  UniqueFd process_;
  Poll sync_poll_;
  Poll outer_poll_;
  Poll process_poll_;
  pid_t pid_ = 0;
  int wait_status_ = 0;
  bool has_clone_ = false;
  bool cloned_ = false;
  bool paused_ = false;
  // abandon() was called; it was told to leave.
  bool abandoned_ = false;
  bool dismissed_ = false;
  bool failed_ = false;
  bool started_ = false;
  bool over_ = false;
  // The second process was reaped without having reached execve.
  bool never_executed_ = false;
};

}  // namespace bulkhead::addon
