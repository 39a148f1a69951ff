/** Writes docs/sentry-syscalls.md from the table: node tools/run.mjs tools/sentry-page.ts */
import { writeFileSync } from 'node:fs';
import { systemCallPage } from '../src/sandbox/sentry/page.ts';

writeFileSync('docs/sentry-syscalls.md', systemCallPage());
