// Terminals, hooks, filters.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

// Answers one system call number with `action`, allows the rest.
Bytes filter(uint32_t number, uint32_t action) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  return bytes({reinterpret_cast<const char*>(program), sizeof program});
}

}  // namespace

TEST(terminal_is_controlling_and_sized) {
  Rootfs root;
  ContainerSteps more;
  Terminal terminal;
  terminal.mount_console = true;
  terminal.width = 91;
  terminal.height = 33;
  more.late = {terminal};
  Run run = run_container(
      root.path(), "tty; stty size; stty -a | grep -o -- '-onlcr'; stat -c %t:%T /dev/console",
      more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "/dev/pts/0\n33 91\n-onlcr\n88:0\n");
}

TEST(terminal_needs_a_real_devpts) {
  Rootfs root;
  ContainerSteps more;
  more.with_dev = false;
  more.late = {Terminal{}};
  Run run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.path, "/dev/pts/ptmx");
  ::mkdir((root / "dev/pts").c_str(), 0755);
  write_text(root / "dev/pts/ptmx", "");
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, EPERM);
  CHECK_EQ(run.failure.detail, "not-devpts");
}

TEST(hook_gets_the_state_and_a_clean_environment) {
  Rootfs root;
  write_text(
      root / "bin/hook",
      "#!/bin/sh\ncat > /data/state; echo \"$1 $X\" > /data/args; ls /proc/self/fd > /data/fds\n",
      0755);
  ContainerSteps more;
  RunHook hook;
  hook.path = text("/bin/hook");
  hook.args = texts({"hook", "one"});
  hook.env = texts({"PATH=/bin", "X=y"});
  hook.timeout_seconds = 10;
  hook.state_prefix = bytes("{\"pid\":");
  hook.state_suffix = bytes("}");
  more.late = {hook};
  Run run = run_container(root.path(), "cat /data/state /data/args /data/fds", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "{\"pid\":1}one y\n0\n1\n2\n3\n");
}

// They hold stderr open, and write faster than anybody reads it.
TEST(hook_is_over_when_it_ends_though_its_children_talk_on) {
  const std::string children =
      "perl -e 'fcntl STDERR, 1031, 1 << 20 or die; $all = \"x\" x (1 << 16); fork; fork; "
      "syswrite STDERR, $all while 1' &\n";
  TempDir dir;
  RunHook hook;
  hook.path = text(dir / "hook");
  hook.env = texts({"PATH=/usr/bin:/bin"});
  for (const char* status : {"0", "3"}) {
    write_text(dir / "hook", "#!/bin/sh\n" + children + "sleep 0.1; exit " + status, 0755);
    RunOptions options;
    options.limit_ms = 20000;
    Run run = run_steps({hook, shell("true")}, options);
    CHECK(!run.timed_out);
    CHECK_EQ(run.failed, *status != '0');
    if (!run.failed) continue;
    CHECK_EQ(run.failure.detail, "hook-exit");
    CHECK_EQ(run.failure.output.size(), 1024u);
  }
}

TEST(hook_failures_say_how) {
  Rootfs root;
  write_text(root / "bin/bad", "#!/bin/sh\necho because >&2\nexit 5\n", 0755);
  write_text(root / "bin/slow", "#!/bin/sh\nsleep 100\n", 0755);
  ContainerSteps more;
  RunHook hook;
  hook.path = text("/bin/bad");
  hook.env = texts({"PATH=/bin"});
  more.late = {hook};
  Run run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "hook-exit");
  CHECK_EQ(run.failure.status, 5 << 8);
  CHECK_EQ(run.failure.output, "because\n");
  CHECK_EQ(run.failure.path, "/bin/bad");
  hook.path = text("/bin/slow");
  hook.timeout_seconds = 1;
  more.late = {hook};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "hook-timeout");
  CHECK_EQ(run.failure.err, ETIMEDOUT);
  hook.path = text("/bin/nothing");
  more.late = {hook};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "hook-exit");
  CHECK_EQ(run.failure.status, 127 << 8);
}

TEST(filter_is_installed) {
  Rootfs root;
  ContainerSteps more;
  more.late = {NoNewPrivs{}};
  Seccomp seccomp;
  seccomp.program = filter(SYS_mkdir, SECCOMP_RET_ERRNO | 33);
  more.late.push_back(seccomp);
  Run run = run_container(root.path(), "mkdir /x; grep Seccomp: /proc/self/status", more);
  CHECK(run.out.find("Numerical argument out of domain") != std::string::npos);
  CHECK(run.out.find("Seccomp:\t2") != std::string::npos);
  seccomp.program = bytes("1234567");
  more.late = {seccomp};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "program-size");
  // Between other steps, and before Exec.
  seccomp.program = filter(SYS_mkdir, SECCOMP_RET_ERRNO | 33);
  more.late = {};
  auto steps = container(root.path(), "mkdir /x; ls /proc/self/fd", more);
  steps.insert(steps.end() - 1, StepBody(seccomp));
  run = run_steps(steps);
  CHECK(run.out.find("Numerical argument out of domain") != std::string::npos);
  CHECK(run.out.ends_with("0\n1\n2\n3\n"));
}

TEST(filter_before_exec_may_refuse_everything_else) {
  Rootfs root;
  // Allows execve, write and exit_group; whatever else the executor called behind it would end in
  // failure.
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  Seccomp seccomp;
  seccomp.program = bytes({reinterpret_cast<const char*>(program), sizeof program});
  auto steps = container(root.path(), "");
  Exec exec;
  exec.file = text("/bin/missing");
  exec.args = texts({"missing"});
  steps.back() = seccomp;
  steps.push_back(exec);
  // The report gets through.
  Run run = run_steps(steps);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "exec");
  CHECK_EQ(run.failure.err, ENOENT);
  // And a program starts, with the descriptors it should have. (It cannot get far.)
  exec.file = text("/bin/busybox");
  steps.back() = exec;
  run = run_steps(steps);
  CHECK(!run.failed);
}

TEST(filter_listener_is_handed_over) {
  Rootfs root;
  TempDir files;
  std::string path = files / "agent";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(server.get(), 1) == 0);
  std::string heard;
  int listeners = 0;
  auto accept_one = [&] {
    UniqueFd peer(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
    char data[256];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part{data, sizeof data};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got = ::recvmsg(peer.get(), &message, MSG_CMSG_CLOEXEC);
    if (got > 0) heard.assign(data, static_cast<size_t>(got));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    if (rights == nullptr) return;
    int fd;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    UniqueFd notify(fd);
    listeners++;
  };
  std::thread agent([&] {
    accept_one();
    accept_one();
  });
  OpenTree socket_path;
  socket_path.slot = {6};
  socket_path.path = text(path);
  socket_path.path_only = true;
  Seccomp seccomp;
  // Even sendmsg is the agent's to decide: the hand-over must not need it.
  seccomp.program = filter(SYS_sendmsg, SECCOMP_RET_USER_NOTIF);
  seccomp.listener_slot = {6};
  seccomp.state_prefix = bytes("<");
  seccomp.state_suffix = bytes(">");
  ContainerSteps more;
  more.outer = {socket_path};
  more.late = {seccomp};
  Run run = run_container(root.path(), "echo ok", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "ok\n");
  // Just before Exec, when all other descriptors are closed already.
  more.late = {};
  auto steps = container(root.path(), "echo ok; ls /proc/self/fd", more);
  steps.insert(steps.end() - 1, StepBody(seccomp));
  run = run_steps(steps);
  agent.join();
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "ok\n0\n1\n2\n3\n");
  CHECK_EQ(listeners, 2);
  CHECK_EQ(heard, "<1>");
}

}  // namespace bulkhead::test
