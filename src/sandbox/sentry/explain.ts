/** What the table says of one system call, in sentences. */
import { mountCalls } from './mounts.ts';
import type { Decision, SystemCall } from './rules.ts';
import { inWords, ruleInWords } from './page.ts';
import { strictCalls } from './strict.ts';
import { systemCallGroups, systemCalls } from './syscalls.ts';

/** @param what a name or a number; undefined when x86-64 has no such call by that name */
export function explainCall(what: string): string | undefined {
  const number = /^\d+$/.test(what) ? Number(what) : undefined;
  const call = systemCalls.find((known) => known.name === what || known.number === number);
  if (call !== undefined) return explanation(call);
  if (number === undefined) return undefined;
  return `${number}\n  refused: ENOSYS\n  not in the table; calls of kernels to come, of i386 and of x32 are refused\n`;
}

function explanation(call: SystemCall): string {
  const { name, number, decision, note } = call;
  const group = [...systemCallGroups].find(([, calls]) => calls.includes(call))?.[0] ?? '';
  const strict = strictCalls.find((other) => other.number === number);
  const lines = [
    `${name} (${number}, ${group})`,
    ...decisionLines(decision),
    ...(note === '' ? [] : [`  ${note}`]),
    ...(decision.use === 'refuse' ? [counted(decision.errno === 'EPERM')] : []),
  ];
  if (strict !== undefined && strict.decision !== decision) {
    lines.push('  with the profile strict:', ...decisionLines(strict.decision).map((line) => `  ${line}`));
  }
  const mounting = mountCalls.find((other) => other.number === number);
  if (mounting !== undefined) {
    const more = [...decisionLines(mounting.decision), `  ${mounting.note}`].map((line) => `  ${line}`);
    lines.push('  with the annotation io.bulkhead.sentry.mounts=true:', ...more);
  }
  return lines.map((line) => `${line}\n`).join('');
}

function decisionLines(decision: Decision): string[] {
  switch (decision.use) {
    case 'refuse':
      return [`  refused: ${decision.errno}`];
    case 'broker':
      return [`  brokered: the supervisor answers (${decision.handler})`];
    case 'view':
      return [`  brokered: the supervisor answers with the sandbox's own view (${decision.handler})`];
    case 'notice':
      return [`  direct, after the supervisor has heard of it (${decision.handler})`];
    case 'direct':
      if (decision.rules === undefined) return [`  ${inWords(decision)}: the host's kernel runs it`];
      return [
        "  direct in part: the host's kernel runs it with some arguments",
        ...decision.rules.map((rule) => `    ${ruleInWords(rule)}`),
        `    else ${decision.otherwise ?? 'EPERM'}`,
      ];
  }
}

function counted(always: boolean): string {
  return always
    ? '  counted unless the annotation io.bulkhead.sentry.report says none'
    : '  counted only with the annotation io.bulkhead.sentry.report=all';
}

/** Names close to a misspelt one, for the error. */
export function similarCalls(what: string): string[] {
  const wanted = what.toLowerCase();
  return systemCalls
    .map(({ name }) => name)
    .filter(
      (name) => name.includes(wanted) || (wanted.length > 3 && wanted.includes(name) && name.length > 3),
    )
    .slice(0, 5);
}
