#include "shim/args.h"

#include <array>

namespace bulkhead::shim {
namespace {

struct StringFlag {
  std::string_view name;
  std::string ShimArgs::*value;
};
constexpr std::array<StringFlag, 7> kStringFlags = {{{"namespace", &ShimArgs::name_space},
                                                     {"address", &ShimArgs::address},
                                                     {"publish-binary", &ShimArgs::publish_binary},
                                                     {"id", &ShimArgs::id},
                                                     {"bundle", &ShimArgs::bundle},
                                                     {"socket", &ShimArgs::socket},
                                                     {"debug-socket", &ShimArgs::debug_socket}}};

struct BoolFlag {
  std::string_view name;
  bool ShimArgs::*value;
};
constexpr std::array<BoolFlag, 4> kBoolFlags = {{{"debug", &ShimArgs::debug},
                                                 {"v", &ShimArgs::version},
                                                 {"version", &ShimArgs::version},
                                                 {"info", &ShimArgs::info}}};

// Go's strconv.ParseBool.
bool parse_bool(std::string_view text, bool& value) {
  for (std::string_view yes : {"1", "t", "T", "true", "TRUE", "True"}) {
    if (text == yes) return value = true;
  }
  for (std::string_view no : {"0", "f", "F", "false", "FALSE", "False"}) {
    if (text == no) {
      value = false;
      return true;
    }
  }
  return false;
}

}  // namespace

std::string_view wall_of(std::string_view program) {
  if (program == "bulkhead-shim" || program == "containerd-shim-bulkhead-v2") return "namespace";
  if (program == "containerd-shim-bulkhead-vm-v2") return "vm";
  if (program == "containerd-shim-bulkhead-sentry-v2") return "sentry";
  return "";
}

std::string parse_args(int argc, char* const argv[], ShimArgs& args) {
  for (int i = 1; i < argc; i++) {
    std::string_view word = argv[i];
    if (word.size() < 2 || word[0] != '-' || word == "--") {
      if (word == "--" && ++i >= argc) return "";
      args.action = argv[i];
      return "";
    }
    word.remove_prefix(word[1] == '-' ? 2 : 1);
    size_t equals = word.find('=');
    std::string_view name = word.substr(0, equals);
    bool has_value = equals != std::string_view::npos;
    std::string_view value = has_value ? word.substr(equals + 1) : std::string_view();
    bool known = false;
    for (const BoolFlag& flag : kBoolFlags) {
      if (flag.name != name) continue;
      known = true;
      args.*flag.value = true;
      if (has_value && !parse_bool(value, args.*flag.value)) {
        return "flag -" + std::string(name) + ": invalid boolean value \"" + std::string(value) +
               "\"";
      }
    }
    for (const StringFlag& flag : kStringFlags) {
      if (flag.name != name) continue;
      known = true;
      if (!has_value && ++i >= argc) return "flag -" + std::string(name) + ": needs an argument";
      args.*flag.value = has_value ? value : std::string_view(argv[i]);
    }
    if (!known) return "flag -" + std::string(name) + ": not defined";
  }
  return "";
}

}  // namespace bulkhead::shim
