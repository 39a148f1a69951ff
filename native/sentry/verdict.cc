#include "sentry/verdict.h"

#include <cstddef>
#include <cstring>

namespace bulkhead::sentry {

namespace {

constexpr size_t kMaxInstructions = BPF_MAXINSNS;
constexpr uint32_t kArguments = offsetof(seccomp_data, args);

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool parse_one(std::string_view hex, sock_filter& instruction) {
  unsigned char bytes[sizeof(sock_filter)];
  for (size_t i = 0; i < sizeof bytes; i++) {
    int high = digit(hex[2 * i]);
    int low = digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<unsigned char>(high << 4 | low);
  }
  std::memcpy(&instruction, bytes, sizeof bytes);
  return true;
}

bool is_jump(uint16_t code) {
  return code == (BPF_JMP | BPF_JEQ | BPF_K) || code == (BPF_JMP | BPF_JGE | BPF_K) ||
         code == (BPF_JMP | BPF_JGT | BPF_K) || code == (BPF_JMP | BPF_JSET | BPF_K);
}

// The instructions of src/sandbox/sentry/bpf.ts, jumps forward and within.
bool is_sound(const sock_filter& instruction, size_t left) {
  switch (instruction.code) {
    case BPF_LD | BPF_W | BPF_ABS:
      return instruction.k % 4 == 0 && instruction.k < sizeof(seccomp_data);
    case BPF_RET | BPF_K:
      return true;
    case BPF_ALU | BPF_AND | BPF_K:
      return left > 0;
    case BPF_JMP | BPF_JA:
      return instruction.k < left;
    default:
      return is_jump(instruction.code) && instruction.jt < left && instruction.jf < left;
  }
}

bool taken(const sock_filter& instruction, uint32_t value) {
  switch (BPF_OP(instruction.code)) {
    case BPF_JEQ:
      return value == instruction.k;
    case BPF_JGE:
      return value >= instruction.k;
    case BPF_JGT:
      return value > instruction.k;
    default:
      return (value & instruction.k) != 0;
  }
}

}  // namespace

bool Policy::parse(std::string_view hex) {
  constexpr size_t kDigits = 2 * sizeof(sock_filter);
  size_t count = hex.size() / kDigits;
  if (count == 0 || count > kMaxInstructions || hex.size() % kDigits != 0) return false;
  std::vector<sock_filter> code(count);
  for (size_t i = 0; i < count; i++) {
    if (!parse_one(hex.substr(i * kDigits, kDigits), code[i]) ||
        !is_sound(code[i], count - i - 1)) {
      return false;
    }
  }
  if (code.back().code != (BPF_RET | BPF_K)) return false;
  code_ = std::move(code);
  return true;
}

// Ends: every jump leads forward, and the last instruction returns.
Verdict Policy::decide(const seccomp_data& call) const {
  Verdict verdict;
  uint32_t value = 0;
  for (size_t at = 0; at < code_.size(); at++) {
    const sock_filter& instruction = code_[at];
    switch (instruction.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&value, reinterpret_cast<const char*>(&call) + instruction.k, sizeof value);
        if (instruction.k >= kArguments)
          verdict.looked_at |= 1u << (instruction.k - kArguments) / sizeof(uint64_t);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        value &= instruction.k;
        break;
      case BPF_RET | BPF_K:
        verdict.action = instruction.k;
        return verdict;
      case BPF_JMP | BPF_JA:
        at += instruction.k;
        break;
      default:
        at += taken(instruction, value) ? instruction.jt : instruction.jf;
    }
  }
  return verdict;
}

}  // namespace bulkhead::sentry
