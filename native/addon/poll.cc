#include "addon/poll.h"

#include <utility>
#include <vector>

namespace bulkhead::addon {
namespace {

void on_poll(uv_poll_t* handle, int /*status*/, int /*events*/) {
  // Errors (EPOLLERR, EPOLLHUP) are met by the read that on_ready does.
  auto* watch = static_cast<Watch*>(handle->data);
  const Napi::Env env(watch->env);
  const Napi::HandleScope handles(env);
  const Napi::CallbackScope scope(env, watch->context);
  watch->on_ready(env);
}

void on_closed(uv_handle_t* handle) {
  auto* watch = static_cast<Watch*>(handle->data);
  EnvState* state = watch->state;
  {
    const Napi::HandleScope handles(Napi::Env(watch->env));
    if (watch->context != nullptr) napi_async_destroy(watch->env, watch->context);
    // on_ready may hold JavaScript references.
    watch->on_ready = nullptr;
  }
  state->closed(watch);
}

void close_watch(Watch* watch) {
  watch->owner = nullptr;
  uv_close(reinterpret_cast<uv_handle_t*>(&watch->handle), on_closed);
}

}  // namespace

void EnvState::install(Napi::Env env) {
  auto* state = new EnvState();
  env.SetInstanceData<EnvState>(state);
  napi_add_async_cleanup_hook(env, on_env_cleanup, state, &state->hook_);
}

void EnvState::on_env_cleanup(napi_async_cleanup_hook_handle /*handle*/, void* self) {
  auto* state = static_cast<EnvState*>(self);
  state->closing_ = true;
  for (Watch* watch : state->watches_) {
    if (watch->owner == nullptr) continue;  // being closed already
    watch->owner->watch_ = nullptr;
    close_watch(watch);
  }
  state->finish_cleanup();
}

void EnvState::closed(Watch* watch) {
  watches_.erase(watch);
  delete watch;
  finish_cleanup();
}

void EnvState::finish_cleanup() {
  if (!closing_ || !watches_.empty()) return;
  launch_class.Reset();
  // May free the environment and this object with it.
  napi_remove_async_cleanup_hook(std::exchange(hook_, nullptr));
}

int Poll::start(Napi::Env env, int fd, const char* resource,
                std::function<void(Napi::Env)> on_ready) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return EINVAL;
  auto* watch = new Watch();
  if (const int rc = uv_poll_init(loop, &watch->handle, fd); rc != 0) {
    delete watch;
    return -rc;
  }
  watch->handle.data = watch;
  watch->owner = this;
  watch->env = env;
  watch->on_ready = std::move(on_ready);
  watch->state = EnvState::of(env);
  watch->state->add(watch);
  napi_async_init(env, nullptr, Napi::String::New(env, resource), &watch->context);
  watch_ = watch;
  if (const int rc = uv_poll_start(&watch->handle, UV_READABLE, on_poll); rc != 0) {
    stop();
    return -rc;
  }
  return 0;
}

void Poll::stop() {
  if (watch_ == nullptr) return;
  close_watch(std::exchange(watch_, nullptr));
}

void Poll::unref() {
  if (watch_ != nullptr) uv_unref(reinterpret_cast<uv_handle_t*>(&watch_->handle));
}

void emit(Napi::Env env, const Napi::Function& function, std::initializer_list<napi_value> values) {
  function.Call(env.Undefined(), values);
  if (!env.IsExceptionPending()) return;
  const Napi::Error error = env.GetAndClearPendingException();
  napi_fatal_exception(env, error.Value());
}

}  // namespace bulkhead::addon
