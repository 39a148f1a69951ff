/** linux.seccomp: names of actions, architectures, operators and flags. The program itself is libseccomp's work. */
import type { ParsedSpec } from '../types.ts';
import type { Refuse } from './checks.ts';
import { show } from './shape.ts';

const actions = new Set([
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
  'SCMP_ACT_NOTIFY',
]);
const operators = new Set([
  'SCMP_CMP_NE',
  'SCMP_CMP_LT',
  'SCMP_CMP_LE',
  'SCMP_CMP_EQ',
  'SCMP_CMP_GE',
  'SCMP_CMP_GT',
  'SCMP_CMP_MASKED_EQ',
]);
const flags = new Set([
  'SECCOMP_FILTER_FLAG_TSYNC',
  'SECCOMP_FILTER_FLAG_LOG',
  'SECCOMP_FILTER_FLAG_SPEC_ALLOW',
  'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV',
]);

export function checkSeccomp({ linux }: ParsedSpec, refuse: Refuse): void {
  const { seccomp } = linux;
  if (seccomp === undefined) return;
  const { defaultAction = '', syscalls = [], architectures = [], listenerPath = '' } = seccomp;
  // An empty profile is no profile, as runc has it.
  if (defaultAction === '' && syscalls.length === 0) return;
  if (!actions.has(defaultAction)) {
    refuse('linux.seccomp.defaultAction', `unknown action ${show(defaultAction)}`);
  }
  architectures.forEach((name, index) => {
    if (!/^SCMP_ARCH_[A-Z0-9_]+$/.test(name)) {
      refuse(`linux.seccomp.architectures[${index}]`, `unknown architecture ${show(name)}`);
    }
  });
  (seccomp.flags ?? []).forEach((flag, index) => {
    if (!flags.has(flag)) refuse(`linux.seccomp.flags[${index}]`, `unknown flag ${show(flag)}`);
  });
  syscalls.forEach((rule, index) => {
    const field = `linux.seccomp.syscalls[${index}]`;
    if (rule.names.length === 0) refuse(`${field}.names`, 'must name a system call');
    if (!actions.has(rule.action)) refuse(`${field}.action`, `unknown action ${show(rule.action)}`);
    (rule.args ?? []).forEach((arg, at) => {
      if (arg.index > 5) refuse(`${field}.args[${at}].index`, `must be from 0 to 5, is ${arg.index}`);
      if (!operators.has(arg.op)) refuse(`${field}.args[${at}].op`, `unknown operator ${show(arg.op)}`);
    });
  });
  const notifies =
    defaultAction === 'SCMP_ACT_NOTIFY' || syscalls.some((rule) => rule.action === 'SCMP_ACT_NOTIFY');
  if (defaultAction === 'SCMP_ACT_NOTIFY') {
    refuse(
      'linux.seccomp.defaultAction',
      'SCMP_ACT_NOTIFY cannot be the default: the runtime itself would wait',
    );
  }
  if (notifies && listenerPath === '') {
    refuse('linux.seccomp.listenerPath', 'is required and missing: a rule has the action SCMP_ACT_NOTIFY');
  }
}
