#include "shim/install.h"

#include <limits.h>
#include <unistd.h>

#include <cstdlib>

namespace bulkhead::shim {

Install find_install() {
  Install install;
  char path[PATH_MAX];
  ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  std::string prefix(path, length > 0 ? static_cast<size_t>(length) : 0);
  for (int up = 0; up < 2; up++) {
    size_t slash = prefix.rfind('/');
    prefix.resize(slash == std::string::npos ? 0 : slash);
  }
  install.lib = prefix + "/lib/bulkhead";
  const char* root = std::getenv("BULKHEAD_ROOT");
  install.root = root == nullptr || *root == '\0' ? "/run/bulkhead" : root;
  if (install.root[0] != '/') install.root.clear();
  while (install.root.size() > 1 && install.root.back() == '/') install.root.pop_back();
  return install;
}

}  // namespace bulkhead::shim
