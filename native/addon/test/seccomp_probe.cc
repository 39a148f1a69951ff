// seccomp-probe FLAGS CALL...: loads the program on standard input (struct sock_filter[]) in a
// fresh child for every CALL and makes that system call. Prints a line for each: the errno (0:
// success), "signal N", or "load ERRNO" when the kernel refused the program.
//
// CALL: ABI:NUMBER[:ARGUMENT]..., ABI is "native", or "i386" (int $0x80, x86-64 only).
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr size_t kMaxProgram = BPF_MAXINSNS * sizeof(sock_filter);

struct Call {
  bool i386 = false;
  long number = 0;
  uint64_t arguments[6] = {};
};

bool parse(char* text, Call& call) {
  char* rest = nullptr;
  const char* abi = strtok_r(text, ":", &rest);
  if (abi == nullptr) return false;
  call.i386 = strcmp(abi, "i386") == 0;
  if (!call.i386 && strcmp(abi, "native") != 0) return false;
  const char* number = strtok_r(nullptr, ":", &rest);
  if (number == nullptr) return false;
  call.number = strtol(number, nullptr, 0);
  for (uint64_t& argument : call.arguments) {
    const char* value = strtok_r(nullptr, ":", &rest);
    if (value == nullptr) break;
    argument = strtoull(value, nullptr, 0);
  }
  return true;
}

// 0 or an errno.
int make(const Call& call) {
  const uint64_t* a = call.arguments;
#ifdef __x86_64__
  if (call.i386) {
    long result = call.number;
    __asm__ volatile("int $0x80"
                     : "+a"(result)
                     : "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "memory", "r8", "r9", "r10", "r11");
    return result < 0 ? static_cast<int>(-result) : 0;
  }
#endif
  return syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5]) < 0 ? errno : 0;
}

[[noreturn]] void child(const sock_fprog& program, unsigned long flags, const Call& call,
                        int report) {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  int answer[2] = {0, 0};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) < 0) {
    answer[0] = 1;
    answer[1] = errno;
  } else {
    answer[1] = make(call);
  }
  if (write(report, answer, sizeof(answer)) != sizeof(answer)) _exit(3);
  _exit(0);
}

void check(const sock_fprog& program, unsigned long flags, const Call& call) {
  int channel[2];
  if (pipe(channel) != 0) exit(2);
  const pid_t pid = fork();
  if (pid == 0) child(program, flags, call, channel[1]);
  close(channel[1]);
  int answer[2];
  const bool answered = read(channel[0], answer, sizeof(answer)) == sizeof(answer);
  close(channel[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (answered) {
    printf("%s%d\n", answer[0] == 1 ? "load " : "", answer[1]);
  } else if (WIFSIGNALED(status)) {
    printf("signal %d\n", WTERMSIG(status));
  } else {
    printf("exit %d\n", WEXITSTATUS(status));
  }
}

}  // namespace

int main(int argc, char** argv) {
  static unsigned char bytes[kMaxProgram];
  const size_t size = fread(bytes, 1, sizeof(bytes), stdin);
  sock_fprog program{static_cast<unsigned short>(size / sizeof(sock_filter)),
                     reinterpret_cast<sock_filter*>(bytes)};
  if (argc < 3) return 2;
  const unsigned long flags = strtoul(argv[1], nullptr, 0);
  for (int i = 2; i < argc; ++i) {
    Call call;
    if (!parse(argv[i], call)) return 2;
    fflush(stdout);
    check(program, flags, call);
  }
  return 0;
}
