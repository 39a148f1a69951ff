/** The command line is killed at a random moment; `delete --force` then finds whatever there is, and nothing is left. */
import { spawn } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { prefix } from '../e2e/lib/paths.ts';
import { run } from '../e2e/lib/exec.ts';
import { changesSince, look } from './lib/host.ts';
import { Local } from './lib/local.ts';
import { randoms } from './lib/randoms.ts';

const program = join(prefix, 'bin/bulkhead');
const local = new Local();
const state = local.state;

beforeAll(() => local.prepare());
afterAll(() => local.dispose());

/** Runs a verb, and kills the command with SIGKILL after a while, unless it has ended. */
function killed(words: readonly string[], delay: number): Promise<void> {
  return new Promise((resolve) => {
    const child = spawn(program, ['--root', state, ...words], { cwd: local.bundle.dir, stdio: 'ignore' });
    const timer = setTimeout(() => child.kill('SIGKILL'), delay);
    child.once('exit', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** What a verb says on standard error, and how it ended; a container that it leaves keeps no pipe of ours open. */
async function bulkhead(...words: string[]): Promise<string> {
  const errors = join(local.dir, 'stderr');
  const command = [program, '--root', state, ...words];
  const { code } = await run('sh', ['-c', 'exec "$@" >/dev/null 2>"$0"', errors, ...command], {
    cwd: local.bundle.dir,
    timeout: 20_000,
  });
  return `${readFileSync(errors, 'utf8')}exit ${code}`;
}

const random = randoms(4711);
const delay = (): number => Math.floor(random.next().value * 160);

type Life = (id: string) => Promise<unknown>;
const lives: [string, Life][] = [
  ['create', (id) => killed(['create', id], delay())],
  ['run --detach', (id) => killed(['run', '--detach', id], delay())],
  ['run', (id) => killed(['run', id], delay())],
  [
    'start',
    async (id) => {
      await bulkhead('create', id);
      await killed(['start', id], delay());
    },
  ],
  [
    'exec',
    async (id) => {
      await bulkhead('run', '--detach', id);
      await killed(['exec', id, '/bin/sleep', '1000'], delay());
    },
  ],
  [
    'delete --force',
    async (id) => {
      await bulkhead('run', '--detach', id);
      await killed(['delete', '--force', id], delay());
    },
  ],
];
const rounds = lives.flatMap(([name, live]) =>
  Array.from({ length: 6 }, (_, round): [string, number, Life] => [name, round, live]),
);

describe('bulkhead, killed at a random moment', () => {
  it.each(rounds)(
    'in %s (round %i) leaves nothing that delete --force does not find',
    async (name, round, live) => {
      const id = `c-${name.replaceAll(/\W/g, '')}-${round}`;
      local.bundle.write(local.bundle.spec(round % 2 === 0 ? 'plain' : 'loaded', id));
      const before = look(local.watched);
      await live(id);
      expect(await bulkhead('delete', '--force', id)).toBe('exit 0');
      expect(await changesSince(before, local.watched)).toEqual([]);
    },
  );

  it('leaves a state root that works', async () => {
    rmSync(state, { recursive: true, force: true });
    local.bundle.write(local.bundle.spec('plain', 'after'));
    expect(await bulkhead('run', '--detach', 'after')).toBe('exit 0');
    expect(await bulkhead('delete', '--force', 'after')).toBe('exit 0');
  });
});
