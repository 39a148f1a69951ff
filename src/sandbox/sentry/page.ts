/** docs/sentry-syscalls.md, made from the table. A test compares the two; `tools/sentry-page.ts` writes it. */
import { mountCalls } from './mounts.ts';
import type { Decision, Rule, Test } from './rules.ts';
import { reachesKernel, strictCalls, strictChanges } from './strict.ts';
import { systemCallGroups, systemCalls } from './syscalls.ts';

export function systemCallPage(): string {
  const count = (use: Decision['use']): number =>
    systemCalls.filter(({ decision }) => decision.use === use).length;
  const lines = [
    '# System calls under the sentry wall',
    '',
    '<!-- Made from src/sandbox/sentry/syscalls.ts by tools/sentry-page.ts; do not edit. -->',
    '',
    `Of ${systemCalls.length} known calls of x86-64 ${count('direct')} reach the host's kernel, ` +
      `${systemCalls.filter(({ decision }) => decision.use === 'direct' && decision.rules !== undefined).length} of them only ` +
      `with some arguments; ${count('broker')} are done by the supervisor, ${count('view')} show the sandbox's own view, ` +
      `${count('refuse')} are refused. Unknown numbers, i386's and x32's calls get ENOSYS.`,
  ];
  for (const [group, calls] of systemCallGroups) {
    lines.push(
      '',
      `## ${group[0]?.toUpperCase()}${group.slice(1)}`,
      '',
      '| call | what happens | note |',
      '|---|---|---|',
    );
    for (const { name, decision, note } of calls)
      lines.push(`| \`${name}\` | ${inWords(decision)} | ${note} |`);
  }
  lines.push(...strictSection(), ...mountSection());
  return `${lines.join('\n')}\n`;
}

function strictSection(): string[] {
  const reached = strictCalls.filter(({ decision }) => reachesKernel(decision));
  return [
    '',
    '## What the profile strict does otherwise',
    '',
    `${reached.length} calls reach the host's kernel.`,
    '',
    '| call | what happens | note |',
    '|---|---|---|',
    ...strictChanges.map(({ name, decision, note }) => `| \`${name}\` | ${inWords(decision)} | ${note} |`),
  ];
}

function mountSection(): string[] {
  return [
    '',
    '## What the annotation io.bulkhead.sentry.mounts does otherwise',
    '',
    '| call | what happens | note |',
    '|---|---|---|',
    ...mountCalls.map(({ name, decision, note }) => `| \`${name}\` | ${inWords(decision)} | ${note} |`),
  ];
}

export function inWords(decision: Decision): string {
  switch (decision.use) {
    case 'refuse':
      return decision.errno;
    case 'broker':
      return decision.direct === undefined
        ? 'supervisor'
        : `direct if ${decision.direct.map(testInWords).join(' and ')}; else supervisor`;
    case 'view':
      return 'own view';
    case 'notice':
      return 'direct, after a notice';
    case 'direct':
      if (decision.rules === undefined) return 'direct';
      return [...decision.rules.map(ruleInWords), `else ${decision.otherwise ?? 'EPERM'}`].join('; ');
  }
}

export function ruleInWords({ when, then }: Rule): string {
  return `${then === 'direct' ? 'direct' : then} if ${when.map(testInWords).join(' and ')}`;
}

function testInWords(test: Test): string {
  const argument = `argument ${test.arg + 1}`;
  if ('null' in test) return `${argument} is null`;
  if ('none' in test) return `${argument} has none of 0x${(test.none >>> 0).toString(16)}`;
  const masked = test.and === undefined ? argument : `${argument} & 0x${test.and.toString(16)}`;
  const values = test.in.map((value) => (value > 255 ? `0x${value.toString(16)}` : String(value)));
  return `${masked} is ${values.join(', ')}`;
}
