// The command line of a shim, as containerd writes it (Go's flag package): shim-contract,
// "invocation".
#pragma once

#include <string>
#include <string_view>

namespace bulkhead::shim {

struct ShimArgs {
  std::string wall = "namespace";  // by the name of the binary
  std::string program;             // last component of argv[0]
  std::string name_space;
  std::string address;
  std::string publish_binary;
  std::string id;
  std::string bundle;
  std::string socket;
  std::string debug_socket;
  bool debug = false;
  bool version = false;
  bool info = false;
  std::string action;  // first word that is no flag; "" when there is none
};

// Fills `args`. The result is empty, or the sentence that says what is wrong with the command line.
// Flags take one dash or two, "-flag value" or "-flag=value"; booleans "-debug" or "-debug=true".
std::string parse_args(int argc, char* const argv[], ShimArgs& args);

// "namespace", "vm" or "sentry" for the name of a shim binary, "" for any other name.
std::string_view wall_of(std::string_view program);

}  // namespace bulkhead::shim
