import { existsSync, lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../lib/exec.ts';
import { scratch } from '../lib/paths.ts';

/** A static program made from a source beside this file; made once a run. */
export const program = async (name: string): Promise<string> => {
  const source = join(import.meta.dirname, `${name}.c`);
  const dir = join(scratch(), 'programs');
  const out = join(dir, name);
  mkdirSync(dir, { recursive: true, mode: 0o755 });
  if (existsSync(out) && lstatSync(out).mtimeMs > lstatSync(source).mtimeMs) return out;
  const result = await run('gcc', ['-O1', '-static', '-pthread', '-o', out, source], { timeout: 60_000 });
  if (result.code !== 0) throw new Error(`gcc ${name}.c: ${result.stderr}`);
  return out;
};

/** Flags of `ctr run` that bind a host path, read-only. */
export const bind = (from: string, to: string): string[] => [
  '--mount',
  `type=bind,src=${from},dst=${to},options=rbind:ro`,
];

const javaSettings = readdirSync('/etc').filter((name) => /^java-\d+/.test(name));

/** The host's own Debian, read-only, in place of the image's busybox. */
export const debian = [
  ...bind('/usr', '/usr'),
  ...bind('/usr/bin', '/bin'),
  ...bind('/usr/lib', '/lib'),
  ...bind('/usr/lib64', '/lib64'),
  ...bind('/etc/alternatives', '/etc/alternatives'),
  ...bind('/etc/ssl', '/etc/ssl'),
  ...javaSettings.flatMap((name) => bind(`/etc/${name}`, `/etc/${name}`)),
  '--mount',
  'type=tmpfs,src=tmpfs,dst=/scratch,options=rw:mode=1777',
  '--env',
  'PATH=/usr/sbin:/usr/bin:/bin',
  '--env',
  'HOME=/scratch',
  '--cwd',
  '/scratch',
];
