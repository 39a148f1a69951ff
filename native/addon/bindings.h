// The functions of src/native/addon.d.ts, by theme.
#pragma once

#include <napi.h>

namespace bulkhead::addon {

void define_process(Napi::Env env, Napi::Object exports);   // pidfds, subreaper
void define_files(Napi::Env env, Napi::Object exports);     // mount, openat2, flock
void define_lend(Napi::Env env, Napi::Object exports);      // files for other credentials
void define_memory(Napi::Env env, Napi::Object exports);    // anonymous files
void define_mapped(Napi::Env env, Napi::Object exports);    // device-DAX nodes
void define_sockets(Napi::Env env, Napi::Object exports);   // SCM_RIGHTS, SO_PEERCRED
void define_vsock(Napi::Env env, Napi::Object exports);     // connections to guests
void define_terminal(Napi::Env env, Napi::Object exports);  // window size, raw mode
void define_cgroup(Napi::Env env, Napi::Object exports);    // device programs, v1 events
void define_seccomp(Napi::Env env, Napi::Object exports);
void define_network(Napi::Env env, Napi::Object exports);  // network namespaces, taps

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void define(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<function>(env, name));
}

}  // namespace bulkhead::addon
