// Decoders, frames, launching.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "core/frame.h"
#include "core/init_codec.h"
#include "core/slow_close.h"
#include "core/vsock.h"
#include "init/plan_codec.h"
#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

std::span<const uint8_t> span_of(std::string_view value) {
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

PlanError refused(std::string_view encoded) {
  Plan plan;
  PlanError error;
  CHECK(!decode_plan(span_of(encoded), plan, error));
  return error;
}

std::string encode(std::vector<StepBody> steps, uint32_t version = 1) {
  PlanText plan;
  plan.version = version;
  plan.steps = std::move(steps);
  return encode_plan(plan);
}

}  // namespace

TEST(plan_survives_encoding) {
  User user;
  user.uid = 4294967295u;
  user.additional_gids = {0, 1, 4294967294u};
  FsMount mount;
  mount.slot = {4095};
  mount.options = texts({"a", "b=c", ""});
  std::string encoded = encode({user, mount, OomScoreAdj{{-1000}, true}, PivotRoot{}});
  Plan plan;
  PlanError error;
  REQUIRE(decode_plan(span_of(encoded), plan, error));
  REQUIRE(plan.steps.size() == 4);
  CHECK_EQ(plan.id.view(), "test");
  const User& decoded = std::get<User>(plan.steps[0].body);
  CHECK_EQ(decoded.uid, 4294967295u);
  CHECK(decoded.additional_gids == user.additional_gids);
  const FsMount& decoded_mount = std::get<FsMount>(plan.steps[1].body);
  REQUIRE(decoded_mount.options.size() == 3);
  CHECK_EQ(decoded_mount.options[1].view(), "b=c");
  CHECK_EQ(decoded_mount.options[2].view(), "");
  CHECK_EQ(std::get<OomScoreAdj>(plan.steps[2].body).value.value, -1000);
  CHECK(std::holds_alternative<PivotRoot>(plan.steps[3].body));
}

TEST(plan_decoding_is_strict) {
  CHECK_EQ(refused(encode({}, 2)).err, EPROTONOSUPPORT);
  CHECK_EQ(refused("").err, EPROTONOSUPPORT);
  CHECK_EQ(refused("garbage").err != 0, true);
  // Field 4 of the plan; step 99; field 9 of Umask; two actions in one step; no action.
  CHECK_EQ(refused(std::string("\x08\x01\x20\x01")).detail, std::string("unknown-field"));
  PlanError error = refused(encode({Umask{1}}) + std::string("\x1a\x03\x9a\x06\x00", 5));
  CHECK_EQ(error.err, ENOSYS);
  CHECK_EQ(error.detail, std::string("unknown-step"));
  CHECK_EQ(error.index, 1u);
  CHECK_EQ(error.action, 99u);
  error = refused(std::string("\x08\x01\x1a\x05\xf2\x02\x02\x48\x01", 9));
  CHECK_EQ(error.detail, std::string("unknown-field"));
  CHECK_EQ(error.action, Umask::kAction);
  error = refused(std::string("\x08\x01\x1a\x06\xf2\x02\x00\xf2\x02\x00", 10));
  CHECK_EQ(error.detail, std::string("two-actions"));
  error = refused(std::string("\x08\x01\x1a\x00", 4));
  CHECK_EQ(error.err, ENOSYS);
  // Text with NUL, slot out of range, enum out of range, wrong wire type.
  CHECK_EQ(refused(encode({Hostname{text(std::string_view("a\0b", 3))}})).detail,
           std::string("nul-in-text"));
  CHECK_EQ(refused(encode({OpenFile{{4096}, text("/x"), 0}})).detail, std::string("slot-number"));
  CHECK_EQ(refused(encode({SetPropagation{text("/"), static_cast<Propagation>(9), false}})).detail,
           std::string("unknown-value"));
  error = refused(std::string("\x08\x01\x1a\x06\xf2\x02\x03\x0a\x01x", 10));
  CHECK_EQ(error.detail, std::string("wire-type"));
}

TEST(refused_plan_is_reported_by_the_helper) {
  Run run = run_bytes(encode({Umask{1}}, 7));
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EPROTONOSUPPORT);
  CHECK_EQ(run.failure.detail, "version");
  CHECK_EQ(run.exit_code(), 1);
  run = run_bytes("");
  CHECK(run.failed);
}

TEST(reports_survive_encoding) {
  StepFailure failure;
  failure.index = 3;
  failure.action = 22;
  failure.path = std::string(10000, 'p');
  failure.err = 13;
  failure.detail = "attach";
  failure.status = 256;
  failure.output = "said";
  InitEvent event;
  std::string bytes_sent = encode_failure(failure);
  CHECK(bytes_sent.size() < kMaxInitMessage);
  REQUIRE(decode_init_event(span_of(bytes_sent), event));
  CHECK(event.kind == InitEvent::Kind::kFailed);
  CHECK_EQ(event.failure.index, 3u);
  CHECK_EQ(event.failure.action, 22u);
  CHECK_EQ(event.failure.path.size(), 4096u);
  CHECK_EQ(event.failure.err, 13);
  CHECK_EQ(event.failure.status, 256);
  CHECK_EQ(event.failure.output, "said");
  REQUIRE(decode_init_event(span_of(encode_cloned(4711)), event));
  CHECK_EQ(event.pid, 4711);
  REQUIRE(decode_init_event(span_of(encode_paused("")), event));
  CHECK(event.kind == InitEvent::Kind::kPaused);
  REQUIRE(decode_init_event(span_of(encode_console()), event));
  CHECK(event.kind == InitEvent::Kind::kConsole);
  CHECK(!decode_init_event(span_of("\xff\xff"), event));
  CHECK(!decode_init_event({}, event));
  ToInit answer;
  CHECK(decode_to_init(span_of(encode_to_init({true, 5})), answer) && answer.proceed);
  CHECK_EQ(answer.streams, 5u);
  CHECK(decode_to_init(span_of(encode_to_init({})), answer) && !answer.proceed);
  CHECK_EQ(answer.streams, 0u);
  CHECK(!encode_to_init({}).empty());
  CHECK(!decode_to_init(span_of("\x0a\x7f"), answer));
}

TEST(vsock_addresses_are_two_numbers) {
  VsockAddress address;
  CHECK(parse_vsock("vsock://70000:1024", address));
  CHECK(address.cid == 70000 && address.port == 1024);
  CHECK(parse_vsock("vsock://4294967295:0", address));
  for (const char* text :
       {"", "/run/a.sock", "vsock://", "vsock://1", "vsock://1:", "vsock://:1", "vsock://-1:1",
        "vsock://1:2x", "vsock://4294967296:1", "vsock://1: 2"}) {
    CHECK(!parse_vsock(text, address));
  }
}

TEST(who_is_not_the_host_is_told_by_its_address) {
  int pair[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  CHECK(!is_from_host(ours.get()));
  CHECK(!is_from_host(-1));
}

TEST(frames_come_whole_however_they_are_cut) {
  FrameWriter writer;
  std::string big(200000, 'x');
  CHECK(writer.push(span_of("ab"), span_of("cd")));
  CHECK(writer.push({}));
  CHECK(writer.push(span_of(big)));
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
  UniqueFd a(pair[0]), b(pair[1]);
  FrameReader reader;
  std::vector<std::string> got;
  for (int round = 0; round < 100 && got.size() < 3; round++) {
    CHECK(writer.flush(a.get()));
    CHECK(reader.fill(b.get()) == FrameReader::Status::kOpen);
    while (auto message = reader.next()) got.emplace_back(message->begin(), message->end());
  }
  REQUIRE(got.size() == 3);
  CHECK_EQ(got[0], "abcd");
  CHECK_EQ(got[1], "");
  CHECK(got[2] == big);
  CHECK(!reader.partial());
  CHECK(writer.empty());
  a.reset();
  CHECK(reader.fill(b.get()) == FrameReader::Status::kEnd);
  // One byte at a time.
  std::string stream("\0\0\0\3abc\0\0\0\1", 11);
  got.clear();
  for (char byte : stream) {
    CHECK(reader.feed(span_of(std::string_view(&byte, 1))));
    while (auto message = reader.next()) got.emplace_back(message->begin(), message->end());
  }
  REQUIRE(got.size() == 1);
  CHECK_EQ(got[0], "abc");
  CHECK(reader.partial());
}

TEST(oversize_frames_are_refused) {
  FrameReader reader;
  CHECK(!reader.feed(span_of(std::string("\x00\x80\x00\x01", 4))));
  FrameWriter writer;
  std::string huge(kMaxFrame + 1, 'x');
  CHECK(!writer.push(span_of(huge)));
  CHECK(writer.empty());
  CHECK(writer.push(span_of(std::string_view(huge).substr(1))));
  FrameReader other;
  CHECK(other.feed(span_of(std::string("\x00\x80\x00\x00", 4))));
}

TEST(flush_to_a_closed_peer_fails_without_a_signal) {
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  UniqueFd a(pair[0]);
  ::close(pair[1]);
  FrameWriter writer;
  CHECK(writer.push(span_of("x")));
  CHECK(!writer.flush(a.get()));
  CHECK_EQ(errno, EPIPE);
}

TEST(launch_places_descriptors_whatever_their_numbers) {
  // All borrowed descriptors on numbers that will be assigned, in every order.
  std::string plan = encode({shell("cat <&3; cat <&4; cat <&5; ls /proc/self/fd | busybox wc -l")});
  plan = encode([] {
    std::vector<StepBody> steps = {shell("cat <&3; cat <&4; cat <&5")};
    std::get<Exec>(steps[0]).preserve_fds = 3;
    return steps;
  }());
  TempDir files;
  for (int shift = 0; shift < 6; shift++) {
    pid_t pid = ::fork();
    if (pid == 0) {
      int init = ::fcntl(init_fd(), F_DUPFD_CLOEXEC, 100);
      int out = ::open((files / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
      int high_out = ::fcntl(out, F_DUPFD_CLOEXEC, 100);
      int sources[3];
      for (int i = 0; i < 3; i++) {
        std::string name = files / std::string(1, static_cast<char>('a' + i));
        write_text(name, std::string(1, static_cast<char>('a' + i)));
        int fd = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
        sources[i] = ::fcntl(fd, F_DUPFD_CLOEXEC, 100);
      }
      ::syscall(SYS_close_range, 0u, 99u, 0u);
      // The low numbers, rotated.
      int low[6];
      int high[6] = {init, high_out, high_out, sources[0], sources[1], sources[2]};
      for (int i = 0; i < 6; i++) low[i] = (i + shift) % 6 + 2;
      for (int i = 0; i < 6; i++) ::dup3(high[i], low[i], O_CLOEXEC);
      ::syscall(SYS_close_range, 100u, ~0u, 0u);
      int extra[3] = {low[3], low[4], low[5]};
      LaunchArgs args;
      args.init_fd = low[0];
      args.plan = span_of(plan);
      args.stdio[1] = low[1];
      args.stdio[2] = low[2];
      args.extra_fds = extra;
      auto launched = launch(args);
      if (!launched) ::_exit(1);
      auto status = wait_pidfd(launched->pidfd.get(), true);
      ::_exit(status.ok() && status->wait_status == 0 ? 0 : 2);
    }
    int status = -1;
    ::waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(read_text(files / "out"), "abc");
  }
}

TEST(launch_of_what_cannot_be_executed_fails) {
  UniqueFd text_file(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
  LaunchArgs args;
  args.init_fd = text_file.get();
  auto launched = launch(args);
  CHECK(!launched.ok());
  CHECK_EQ(launched.error().code, EACCES);
  CHECK_EQ(std::string(launched.error().op), "exec bulkhead-init");
  CHECK(::waitpid(-1, nullptr, WNOHANG) < 0);
  CHECK(!open_init("/nonexistent/init").ok());
}

TEST(close_elsewhere_tells_when_it_is_done) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd reader(ends[0]);
  auto done = close_elsewhere(UniqueFd(ends[1]));
  REQUIRE(done.ok());
  pollfd state{done->get(), POLLIN, 0};
  CHECK_EQ(::poll(&state, 1, 60000), 1);
  char byte;
  CHECK_EQ(::read(reader.get(), &byte, 1), 0);
}

TEST(start_time_tells_processes_apart) {
  auto self = process_start_time(::getpid());
  REQUIRE(self.ok());
  CHECK(self.value() > 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    // A name that would mislead a parser that splits at blanks.
    write_text("/proc/self/comm", ") 1 (x) R");
    ::pause();
  }
  ::usleep(20000);
  auto child = process_start_time(pid);
  CHECK(child.ok() && child.value() >= self.value());
  auto pidfd = pidfd_open(pid);
  REQUIRE(pidfd.ok());
  auto status = wait_pidfd(pidfd->get(), false);
  CHECK(status.ok() && !status->exited);
  CHECK(pidfd_signal(pidfd->get(), 9).ok());
  status = wait_pidfd(pidfd->get(), true);
  CHECK(status.ok() && status->exited);
  CHECK_EQ(status->wait_status, 9);
  CHECK_EQ(wait_pidfd(pidfd->get(), true).error().code, ECHILD);
  CHECK_EQ(process_start_time(pid).error().code, ESRCH);
  CHECK_EQ(pidfd_signal(pidfd->get(), 9).error().code, ESRCH);
}

// Its stops are no end, whether they are waited for or not.
TEST(pidfd_of_a_child_that_asks_to_be_traced) {
  for (bool block : {true, false}) {
    pid_t pid = ::fork();
    if (pid == 0) {
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      ::raise(SIGWINCH);
      ::raise(SIGTERM);
      ::_exit(1);
    }
    auto pidfd = pidfd_open(pid);
    REQUIRE(pidfd.ok());
    auto status = wait_pidfd(pidfd->get(), block);
    while (status.ok() && !status->exited && !block) status = wait_pidfd(pidfd->get(), block);
    REQUIRE(status.ok());
    CHECK(status->exited);
    CHECK_EQ(status->wait_status, SIGTERM);
  }
}

}  // namespace bulkhead::test
