// Names, sysctls, the loopback device, and what is set by writing to procfs.
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "init/procfs.h"
#include "init/steps.h"

namespace bulkhead {

Outcome carry_out(Context&, const Hostname& step) {
  if (::sethostname(step.name.c_str(), step.name.size) < 0)
    return fail("sethostname", step.name.view());
  return done();
}

Outcome carry_out(Context&, const Domainname& step) {
  if (::setdomainname(step.name.c_str(), step.name.size) < 0) {
    return fail("setdomainname", step.name.view());
  }
  return done();
}

Outcome carry_out(Context& context, const Sysctl& step) {
  std::string path = "sys/";
  path += step.key.view();
  int err = write_proc_file(context, path.c_str(), step.value.view());
  return err == 0 ? done() : fail_with(err, "write", step.key.view());
}

Outcome carry_out(Context&, const LoopbackUp&) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail("socket", "lo");
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0) return fail("get-flags", "lo");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0) return fail("set-flags", "lo");
  return done();
}

Outcome carry_out(Context& context, const OomScoreAdj& step) {
  char text[16];
  int size = std::snprintf(text, sizeof text, "%d", step.value.value);
  std::string_view data(text, static_cast<size_t>(size));
  int err = write_proc_file(context, "self/oom_score_adj", data);
  if (err == EACCES && context.fresh_userns) {
    // The files of a process that is not dumpable belong to the host's root. Nothing of the
    // container runs yet.
    ::prctl(PR_SET_DUMPABLE, 1);
    err = write_proc_file(context, "self/oom_score_adj", data);
    ::prctl(PR_SET_DUMPABLE, 0);
  }
  if (err == 0) return done();
  if (step.best_effort && (err == EACCES || err == EPERM)) {
    report_warning(context, err, "oom_score_adj");
    return done();
  }
  return fail_with(err, "write", "oom_score_adj");
}

Outcome carry_out(Context& context, const LsmExecLabel& step) {
  std::string data;
  const char* path = "self/attr/exec";
  if (step.lsm.view() == "apparmor") {
    data = "exec ";
    path = "self/attr/apparmor/exec";
  } else if (step.lsm.view() != "selinux") {
    return fail_with(EINVAL, "unknown-lsm", step.lsm.view());
  }
  data += step.label.view();
  int err = write_proc_file(context, path, data);
  // Kernels without LSM stacking (before 5.8) have the one directory only.
  if (err == ENOENT && step.lsm.view() == "apparmor") {
    err = write_proc_file(context, "self/attr/exec", data);
  }
  return err == 0 ? done() : fail_with(err, "write", step.label.view());
}

Outcome carry_out(Context&, const SessionKeyring& step) {
  long keyring = ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, step.name.c_str());
  if (keyring < 0) {
    // A kernel without keyrings has none to share.
    return errno == ENOSYS ? done() : fail("join-keyring", step.name.view());
  }
  // "type;uid;gid;perm;description": the user may search it, so that request_key(2) works after
  // setuid.
  char text[256];
  long size = ::syscall(SYS_keyctl, KEYCTL_DESCRIBE, keyring, text, sizeof text - 1);
  if (size < 0) return fail("describe-keyring", step.name.view());
  text[size < static_cast<long>(sizeof text) ? size : static_cast<long>(sizeof text) - 1] = '\0';
  const char* field = text;
  for (int skipped = 0; skipped < 3 && field != nullptr; skipped++) {
    field = std::strchr(field, ';');
    if (field != nullptr) field++;
  }
  constexpr unsigned long kUserSearch = 0x00080000;
  unsigned long permissions = field == nullptr ? 0x3f130000 : std::strtoul(field, nullptr, 16);
  if (::syscall(SYS_keyctl, KEYCTL_SETPERM, keyring, permissions | kUserSearch) < 0) {
    return fail("keyring-permissions", step.name.view());
  }
  return done();
}

}  // namespace bulkhead
