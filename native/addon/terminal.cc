// Terminals: termios(3), tty_ioctl(4).
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "addon/arguments.h"
#include "addon/bindings.h"

namespace bulkhead::addon {
namespace {

// setWinsize(fd, width, height), in characters.
Napi::Value set_winsize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  int width = 0;
  int height = 0;
  if (!get_fd(info[0], "fd", fd) || !get_int(info[1], "width", 0, UINT16_MAX, width) ||
      !get_int(info[2], "height", 0, UINT16_MAX, height)) {
    return env.Undefined();
  }
  winsize size{};
  size.ws_col = static_cast<unsigned short>(width);
  size.ws_row = static_cast<unsigned short>(height);
  if (::ioctl(fd, TIOCSWINSZ, &size) != 0) return throw_errno(env, errno, "ioctl TIOCSWINSZ");
  return env.Undefined();
}

// getWinsize(fd): { width, height }
Napi::Value get_winsize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0) return throw_errno(env, errno, "ioctl TIOCGWINSZ");
  Napi::Object result = Napi::Object::New(env);
  result.Set("width", size.ws_col);
  result.Set("height", size.ws_row);
  return result;
}

// setRawMode(fd): { restore() }. Output processing stays on: the container's pty passes bare line
// feeds (its ONLCR is cleared), so that the user's terminal must turn them into new lines.
Napi::Value set_raw_mode(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  termios before{};
  if (::tcgetattr(fd, &before) != 0) return throw_errno(env, errno, "tcgetattr");
  termios raw = before;
  ::cfmakeraw(&raw);
  raw.c_oflag |= OPOST;
  if (::tcsetattr(fd, TCSANOW, &raw) != 0) return throw_errno(env, errno, "tcsetattr");
  Napi::Object guard = Napi::Object::New(env);
  guard.Set("restore", Napi::Function::New(env, [fd, before](const Napi::CallbackInfo& call) {
              if (::tcsetattr(fd, TCSANOW, &before) != 0) {
                throw_errno(call.Env(), errno, "tcsetattr");
              }
            }));
  return guard;
}

// duplicate(fd): number, a copy for the caller to close (F_DUPFD_CLOEXEC). Opening /proc/self/fd/N
// of a pty's master would make another pty.
Napi::Value duplicate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return throw_errno(env, errno, "fcntl F_DUPFD_CLOEXEC");
  return Napi::Number::New(env, copy);
}

}  // namespace

void define_terminal(Napi::Env env, Napi::Object exports) {
  define<set_winsize>(env, exports, "setWinsize");
  define<get_winsize>(env, exports, "getWinsize");
  define<set_raw_mode>(env, exports, "setRawMode");
  define<duplicate>(env, exports, "duplicate");
}

}  // namespace bulkhead::addon
