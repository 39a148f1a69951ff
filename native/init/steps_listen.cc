// A socket that a helper listens on from before it runs.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "core/launch.h"
#include "init/executor.h"
#include "init/steps.h"

namespace bulkhead {

Outcome leave_descriptor(UniqueFd fd, uint32_t index, std::string_view path) {
  if (index >= kMaxExtraFds) return fail_with(EINVAL, "descriptor", path);
  int number = kFirstExtraFd + static_cast<int>(index);
  if (fd.get() == number) {
    ::fcntl(number, F_SETFD, 0);
    (void)fd.release();
    return done();
  }
  // Nothing of ours may be there: the helper would get it.
  if (::fcntl(number, F_GETFD) >= 0) return fail_with(EBUSY, "descriptor", path);
  if (::dup2(fd.get(), number) < 0) return fail("descriptor", path);
  return done();
}

Outcome carry_out(Context&, const Listen& step) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (step.path.size >= sizeof address.sun_path)
    return fail_with(ENAMETOOLONG, "bind", step.path.view());
  std::memcpy(address.sun_path, step.path.c_str(), step.path.size);
  UniqueFd socket(
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (step.blocking ? 0 : SOCK_NONBLOCK), 0));
  if (!socket) return fail("socket", step.path.view());
  // Before bind(2) puts a name on it: the mode of the name is that of the socket (unix(7)).
  if (::fchmod(socket.get(), 0600) < 0) return fail("mode", step.path.view());
  if (::unlink(step.path.c_str()) < 0 && errno != ENOENT) return fail("unlink", step.path.view());
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return fail("bind", step.path.view());
  if (::listen(socket.get(), 64) < 0) return fail("listen", step.path.view());
  return leave_descriptor(std::move(socket), step.index, step.path.view());
}

}  // namespace bulkhead
