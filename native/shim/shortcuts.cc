#include "shim/shortcuts.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "core/fd.h"

namespace bulkhead::shim {

namespace {

constexpr size_t kMaxConfig = 256u << 10;
constexpr size_t kMaxAddress = 4096;

// Annotations by which a container joins a pod (src/engine/shim_actions.ts). JSON can spell them
// with \u escapes; nobody does, and the engine would not see them either.
constexpr std::string_view kGroupAnnotations[] = {"io.containerd.runc.v2.group",
                                                  "io.kubernetes.cri.sandbox-id"};

// Members of linux.namespaces, as encoding/json writes them.
constexpr std::string_view kNewNetwork = R"({"type":"network"})";
constexpr std::string_view kUserNamespace = R"({"type":"user")";

// A regular file of at most `limit` bytes, else nothing.
std::optional<std::string> read_small(const std::string& path, size_t limit) {
  // O_NONBLOCK: a fifo without a writer would wait for one.
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info;
  if (!file || ::fstat(file.get(), &info) < 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  if (static_cast<size_t>(info.st_size) > limit) return std::nullopt;
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t length = 0;
  while (length < text.size()) {
    ssize_t got = ::read(file.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::nullopt;
    length += static_cast<size_t>(got);
  }
  return text;
}

bool contains(std::string_view text, std::string_view word) {
  return ::memmem(text.data(), text.size(), word.data(), word.size()) != nullptr;
}

bool is_absent(const std::string& path) {
  return ::access(path.c_str(), F_OK) < 0 && errno == ENOENT;
}

// One component of a path, which the engine's own check (src/state/paths.ts) would let through.
bool is_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos;
}

}  // namespace

Glance glance_at_config(std::string_view bundle) {
  Glance glance;
  auto config = read_small(std::string(bundle) + "/config.json", kMaxConfig);
  if (!config) return glance;
  glance.read = true;
  for (std::string_view name : kGroupAnnotations) glance.names_pod |= contains(*config, name);
  glance.new_network = contains(*config, kNewNetwork) && !contains(*config, kUserNamespace);
  return glance;
}

bool start_is_plain(const Install& install, const Glance& config, std::string_view input) {
  return config.read && !config.names_pod && input.empty() &&
         ::access(install.engine_ttrpc().c_str(), F_OK) == 0;
}

std::string socket_of_bundle(std::string_view bundle) {
  auto address = read_small(std::string(bundle) + "/address", kMaxAddress);
  constexpr std::string_view kScheme = "unix://";
  if (!address || !address->starts_with(kScheme)) return "";
  return address->substr(kScheme.size());
}

bool nothing_left(const Install& install, std::string_view name_space, std::string_view id,
                  const std::string& socket) {
  if (!is_name(name_space) || !is_name(id) || socket.empty()) return false;
  return is_absent(socket) && is_absent(install.record(name_space, id));
}

}  // namespace bulkhead::shim
