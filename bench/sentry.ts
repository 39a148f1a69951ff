/**
 * The sentry wall beside runc's shim and the namespace wall, interleaved: the start of `true`, whole workloads and
 * single calls, timed inside. With RUNSC=PATH gVisor's runsc takes part, through runc's shim.
 *
 *   RUNSC=/usr/bin/runsc tools/private.sh node tools/run.mjs bench/sentry.ts
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateContainerd } from '../test/e2e/lib/containerd.ts';
import { root } from '../test/e2e/lib/paths.ts';
import { debian } from '../test/e2e/sentry/programs.ts';
import { median } from './measure.ts';

const ROUNDS = Number(process.env.ROUNDS ?? 5);
const STARTS = Number(process.env.STARTS ?? 12);

interface Subject {
  name: string;
  runtime: string;
  flags: string[];
}

const runsc = process.env.RUNSC;
const subjects: Subject[] = [
  { name: 'runc', runtime: 'io.containerd.runc.v2', flags: [] },
  { name: 'namespace', runtime: 'io.containerd.bulkhead.v2', flags: [] },
  { name: 'sentry', runtime: 'io.containerd.bulkhead-sentry.v2', flags: [] },
  {
    name: 'sentry+landlock',
    runtime: 'io.containerd.bulkhead-sentry.v2',
    flags: ['--annotation', 'io.bulkhead.sentry.landlock=true'],
  },
  {
    name: 'sentry strict',
    runtime: 'io.containerd.bulkhead-sentry.v2',
    flags: ['--annotation', 'io.bulkhead.sentry.profile=strict'],
  },
  ...(runsc === undefined
    ? []
    : [{ name: 'runsc', runtime: 'io.containerd.runc.v2', flags: ['--runc-binary', runsc] }]),
];

/** Prints "NAME MILLISECONDS" for every try of a workload and "NAME NANOSECONDS" for calls, the best of some tries. */
const inside = `
import os, subprocess, time, mmap, stat, threading, queue
work = {
  "sh 50 execs": "i=0; while [ $i -lt 50 ]; do /usr/bin/true; i=$((i+1)); done",
  "git": "rm -rf g; git init -q g && cd g && for i in 1 2 3 4 5 6 7 8 9; do echo $i > $i; done && git add . && git -c user.email=a -c user.name=a commit -qm x && git status --short",
  "find": "find /usr/include /usr/share/perl >/dev/null",
  "grep": "grep -r linux /usr/include/linux >/dev/null",
  "tar": "tar cf /scratch/x.tar -C /usr/include linux && mkdir -p /scratch/y && tar xf /scratch/x.tar -C /scratch/y && rm -rf /scratch/y",
  "gcc": "echo 'int main(){return 0;}' > a.c && gcc -o a a.c && ./a",
  "python": "python3 -c 'import json,re,subprocess'",
  "sqlite": "rm -f s.db; sqlite3 s.db 'pragma journal_mode=wal; create table t(x); insert into t select value from generate_series(1,20000)' >/dev/null",
}
for name, script in work.items():
    for _ in range(6):
        t = time.perf_counter(); subprocess.run(["/bin/sh", "-c", script], check=True)
        print("%s\\t%.3f" % (name, (time.perf_counter() - t) * 1e3))
def call(name, f, n=3000):
    best = 1e9
    for _ in range(5):
        t = time.perf_counter()
        for _ in range(n): f()
        best = min(best, (time.perf_counter() - t) / n)
    print("%s\\t%.0f" % (name, best * 1e9))
open("/scratch/f", "w").write("x" * 4096)
fd = os.open("/scratch/f", os.O_RDONLY)
call("open+close ns", lambda: os.close(os.open("/usr/bin/perl", os.O_RDONLY)))
call("stat ns", lambda: os.stat("/usr/bin/perl"))
call("pread ns", lambda: os.pread(fd, 1, 0))
r, w = os.pipe()
call("pipe write+read ns", lambda: (os.write(w, b"x"), os.read(r, 1)))
call("mmap+munmap ns", lambda: mmap.mmap(-1, 65536).close())
call("uname (brokered) ns", os.uname, 300)
def fork():
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
call("fork+wait ns", fork, 100)
call("posix_spawn true ns", lambda: os.waitpid(os.posix_spawn("/usr/bin/true", ["true"], {}), 0), 40)
`;

const measured = new Map<string, Map<string, number[]>>();
const note = (subject: string, what: string, value: number): void => {
  const row = measured.get(what) ?? new Map<string, number[]>();
  row.set(subject, [...(row.get(subject) ?? []), value]);
  measured.set(what, row);
};

const containerd = await PrivateContainerd.start();
try {
  let serial = 0;
  for (let i = 0; i < STARTS; i++) {
    for (const { name, runtime, flags } of subjects) {
      const result = await containerd.run(`s${serial++}`, ['true'], { runtime, flags: ['--rm', ...flags] });
      if (result.code === 0) note(name, 'start of true ms', result.ms);
      else if (i === 0) console.error(`${name}: ${result.stderr}`);
    }
  }
  for (let i = 0; i < ROUNDS; i++) {
    for (const { name, runtime, flags } of subjects) {
      const result = await containerd.run(`w${serial++}`, ['python3', '-c', inside], {
        runtime,
        flags: ['--rm', ...debian, ...flags],
        timeout: 200_000,
      });
      if (result.code !== 0) {
        console.error(`${name}: ${result.stderr}`);
        continue;
      }
      for (const line of result.stdout.trim().split('\n')) {
        const [what = '', value = ''] = line.split('\t');
        note(name, what, Number(value));
      }
    }
  }
} finally {
  await containerd.stop();
}
const names = subjects.map(({ name }) => name);
const print = (title: string, of: (values: readonly number[]) => number): void => {
  console.log([title, ...names].join('\t'));
  for (const [what, row] of measured) {
    const cells = names.map((name) => row.get(name)).map((values) => (values ? of(values).toFixed(2) : '-'));
    console.log([what, ...cells].join('\t'));
  }
};
print('best', (values) => Math.min(...values));
print('median', median);
const results = join(root, 'bench', 'results');
mkdirSync(results, { recursive: true });
const table = Object.fromEntries([...measured].map(([what, row]) => [what, Object.fromEntries(row)]));
writeFileSync(join(results, 'sentry.json'), `${JSON.stringify(table, null, 2)}\n`);
