// Seccomp policies, flattened by src/native/seccomp.ts, to programs.
#include <errno.h>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/seccomp_compile.h"

namespace bulkhead::addon {
namespace {

constexpr size_t kMaxRules = 16384;
// Comparison: argument index, operator, first value, second value.
constexpr size_t kConditionWords = 4;

// Arrays of the same length, one element a rule; conditions of all rules in one array.
struct Flat {
  Napi::Array names;
  Napi::Uint32Array actions;
  Napi::Uint32Array condition_counts;
  Napi::BigUint64Array conditions;
};

template <class Array>
bool get_typed(Napi::Object object, const char* name, napi_typedarray_type type, Array& out) {
  const Napi::Value value = object.Get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    throw_type_error(object.Env(), std::string(name) + ": wrong array type");
    return false;
  }
  out = value.As<Array>();
  return true;
}

bool get_flat(Napi::Object object, Flat& flat) {
  const Napi::Value names = object.Get("names");
  if (!names.IsArray()) {
    throw_type_error(object.Env(), "names: expected an array");
    return false;
  }
  flat.names = names.As<Napi::Array>();
  if (!get_typed(object, "actions", napi_uint32_array, flat.actions) ||
      !get_typed(object, "conditionCounts", napi_uint32_array, flat.condition_counts) ||
      !get_typed(object, "conditions", napi_biguint64_array, flat.conditions)) {
    return false;
  }
  size_t conditions = 0;
  for (size_t i = 0; i < flat.condition_counts.ElementLength(); ++i) {
    conditions += flat.condition_counts[i];
  }
  const size_t rules = flat.names.Length();
  if (rules > kMaxRules || flat.actions.ElementLength() != rules ||
      flat.condition_counts.ElementLength() != rules ||
      flat.conditions.ElementLength() != conditions * kConditionWords) {
    throw_type_error(object.Env(), "rules: array lengths do not agree");
    return false;
  }
  return true;
}

bool get_rules(const Flat& flat, std::vector<SeccompRule>& rules) {
  size_t word = 0;
  for (uint32_t i = 0; i < flat.names.Length(); ++i) {
    SeccompRule rule;
    if (!get_string(flat.names.Get(i), "names", rule.name)) return false;
    rule.action = flat.actions[i];
    for (uint32_t c = 0; c < flat.condition_counts[i]; ++c, word += kConditionWords) {
      rule.conditions.push_back(SeccompCondition{
          static_cast<uint32_t>(flat.conditions[word]),
          static_cast<uint32_t>(flat.conditions[word + 1]),
          flat.conditions[word + 2],
          flat.conditions[word + 3],
      });
    }
    rules.push_back(std::move(rule));
  }
  return true;
}

bool get_policy(Napi::Value value, SeccompPolicy& policy) {
  if (!value.IsObject()) {
    throw_type_error(value.Env(), "policy: expected an object");
    return false;
  }
  const auto object = value.As<Napi::Object>();
  int64_t action = 0;
  if (!get_integer(object.Get("defaultAction"), "defaultAction", 0, UINT32_MAX, action)) {
    return false;
  }
  policy.default_action = static_cast<uint32_t>(action);
  const Napi::Value archs = object.Get("archs");
  if (!archs.IsArray()) {
    throw_type_error(value.Env(), "archs: expected an array");
    return false;
  }
  const auto list = archs.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    std::string name;
    if (!get_string(list.Get(i), "archs", name)) return false;
    policy.archs.push_back(std::move(name));
  }
  Flat flat;
  return get_flat(object, flat) && get_rules(flat, policy.rules);
}

Napi::Array to_array(Napi::Env env, const std::vector<std::string>& strings) {
  Napi::Array array = Napi::Array::New(env, strings.size());
  for (uint32_t i = 0; i < strings.size(); ++i) array.Set(i, strings[i]);
  return array;
}

// compileSeccomp(policy): { program, unknownSyscalls, unknownArchs }
Napi::Value compile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  SeccompPolicy policy;
  if (!get_policy(info[0], policy)) return env.Undefined();
  const SeccompOutcome outcome = compile_seccomp(policy);
  if (outcome.error != 0) return throw_errno(env, outcome.error, outcome.op, outcome.object);
  Napi::Object result = Napi::Object::New(env);
  result.Set("program",
             Napi::Buffer<uint8_t>::Copy(env, outcome.program.data(), outcome.program.size()));
  result.Set("unknownSyscalls", to_array(env, outcome.unknown_syscalls));
  result.Set("unknownArchs", to_array(env, outcome.unknown_archs));
  return result;
}

// seccompLibrary(): { version, apiLevel, kernelFlags, nativeArch }
Napi::Value library_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const SeccompLibrary library = seccomp_library();
  const std::string version = std::to_string(library.major) + "." + std::to_string(library.minor) +
                              "." + std::to_string(library.micro);
  Napi::Object result = Napi::Object::New(env);
  result.Set("version", version);
  result.Set("apiLevel", library.api_level);
  result.Set("kernelFlags", library.kernel_flags);
  result.Set("nativeArch", library.native_arch);
  return result;
}

}  // namespace

void define_seccomp(Napi::Env env, Napi::Object exports) {
  define<compile>(env, exports, "compileSeccomp");
  define<library_info>(env, exports, "seccompLibrary");
}

}  // namespace bulkhead::addon
