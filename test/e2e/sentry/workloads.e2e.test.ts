import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { debian } from './programs.ts';

/** Not on every Debian: a case that needs one which this host lacks is skipped, and says so. */
const programs: Readonly<Record<string, readonly string[]>> = {
  python: ['python3'],
  'shared memory': ['python3'],
  sqlite: ['sqlite3'],
  git: ['git'],
  node: ['node'],
  go: ['go'],
  java: ['java'],
};

/** Unmodified programs of this host's Debian, behind the sentry wall; each checks what the program computed. */
describe.each(['kernel', 'strict'])('programs behind the sentry wall, profile %s', (profile) => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
  });
  afterAll(() => containerd?.stop());

  const cases: [name: string, script: string, output: string | RegExp][] = [
    [
      'coreutils',
      'seq 1 1000 | sort -rn | head -1; printf b\\\\na | sort | paste -sd,; mktemp -d >d; rm -r "$(cat d)"; echo $?',
      '1000\na,b\n0\n',
    ],
    [
      'bash',
      "bash -c 'x=0; for i in {1..50}; do x=$((x+$(/usr/bin/printf $i))); done; echo $x; echo hi | { read y; echo $y; }'",
      '1275\nhi\n',
    ],
    ['job control', "bash -c 'sleep 50 & kill %1; wait %1; echo $?'", '143\n'],
    ['perl', 'perl -e \'$s += $_ for 1..100; print "$s\\n"; system("echo sub")\'', '5050\nsub\n'],
    [
      'python',
      `python3 -c '
import subprocess, threading, sqlite3, os, socket, tempfile, resource, select
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout.strip())
total = []
threads = [threading.Thread(target=lambda i=i: total.append(i)) for i in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(total))
db = sqlite3.connect("/scratch/a.db"); db.execute("create table t(x)"); db.executemany("insert into t values(?)", [(i,) for i in range(100)]); db.commit()
print(db.execute("select sum(x) from t").fetchone()[0])
s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.sendall(b"net"); print(a.recv(9).decode())
print(os.getpgrp() == os.getpgid(0), os.getgroups(), os.getresuid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1000)
print(os.cpu_count() == len(os.sched_getaffinity(0)), os.nice(3))
import asyncio
async def main():
    p = await asyncio.create_subprocess_exec("sh", "-c", "exit 3"); print(await p.wait())
asyncio.run(main())
'`,
      'child\n190\n4950\nnet\nTrue [0] (0, 0, 0) True\nTrue 3\n3\n',
    ],
    [
      'shared memory',
      'perl -e \'$i = shmget(0, 64, 01600) // die "get: $!"; shmwrite($i, "shared", 0, 6) or die "write: $!"; shmread($i, $b, 0, 6); shmctl($i, 0, 0) // die "remove: $!"; print "$b\\n"\' && python3 -c \'import os; f = os.open("v", os.O_CREAT | os.O_RDWR); print(os.pwritev(f, [b"a", b"bc"], 5), os.pread(f, 9, 5).decode())\'',
      'shared\n3 abc\n',
    ],
    [
      'sqlite',
      'sqlite3 /scratch/b.db "pragma journal_mode=wal; create table t(x); insert into t select value from generate_series(1,500); select count(*), sum(x) from t; pragma integrity_check"',
      'wal\n500|125250\nok\n',
    ],
    [
      'git',
      `export GIT_CONFIG_GLOBAL=/dev/null; git init -q r && cd r && git config user.email a@b && git config user.name a && echo one > f && git add f && git commit -qm first && cd .. && git clone -q r c && cd c && echo two >> f && git status --short && git log --oneline | wc -l && git fsck 2>&1 | tail -1`,
      / M f\n1\n/,
    ],
    [
      'gcc',
      'printf "#include <stdlib.h>\\nint main(){exit(6*7);}\\n" > a.c && gcc -O1 -o a a.c; ./a; echo $?',
      '42\n',
    ],
    [
      'tar, find and grep',
      'mkdir t && for d in 1 2 3 4 5 6 7 8 9 10; do mkdir t/$d; for f in 1 2 3 4 5 6 7 8 9 10; do echo "line $d $f" > t/$d/$f; done; done; tar cf t.tar t && mkdir u && tar xf t.tar -C u && find u -type f | wc -l && grep -rl "line 7 " u | wc -l && rm -rf u t && ls',
      '100\n10\nt.tar\n',
    ],
    ['find over /usr', 'find /usr/include -name "*.h" | wc -l', /^[1-9]\d{2,}\n$/],
    [
      'node',
      'node -e \'const {execFileSync}=require("child_process");const fs=require("fs");fs.writeFileSync("/scratch/n","x".repeat(9));console.log(fs.statSync("/scratch/n").size, execFileSync("echo",["sub"]).toString().trim(), require("os").cpus().length>0);const s=require("http").createServer((q,r)=>r.end("web")).listen(0,async()=>{console.log(await (await fetch("http://127.0.0.1:"+s.address().port)).text());s.close()})\'',
      '9 sub true\nweb\n',
    ],
    [
      'dpkg',
      'mkdir -p p/DEBIAN p/opt/x && printf "Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n" > p/DEBIAN/control && echo hello > p/opt/x/f && dpkg-deb -b p x.deb >/dev/null && mkdir -p root/var/lib/dpkg/updates root/var/lib/dpkg/info && : > root/var/lib/dpkg/status && : > root/var/lib/dpkg/available && dpkg --root=/scratch/root --force-all --log=/scratch/l -i x.deb >/dev/null && cat root/opt/x/f && dpkg --root=/scratch/root -s x | grep ^Status',
      /hello\nStatus: install ok installed\n/,
    ],
    [
      'go',
      'printf \'package main\\nimport ("fmt";"os/exec";"sync")\\nfunc main(){var w sync.WaitGroup;n:=make([]int,50);for i:=range n{w.Add(1);go func(i int){n[i]=i;w.Done()}(i)};w.Wait();s:=0;for _,v:=range n{s+=v};o,_:=exec.Command("echo","sub").Output();fmt.Print(s," ",string(o))}\' > m.go && GOFLAGS=-p=1 GOCACHE=/scratch/gc GOPATH=/scratch/gp GO111MODULE=off go run m.go',
      '1225 sub\n',
    ],
    [
      'java',
      'printf \'public class M{public static void main(String[] a)throws Exception{int s=0;for(int i=0;i<1000;i++)s+=i;Thread t=new Thread(()->System.out.println("thread"));t.start();t.join();System.out.println(s);}}\' > M.java && java -Xshare:auto M.java',
      'thread\n499500\n',
    ],
  ];

  it.for(cases)('%s', { timeout: 600_000 }, async ([name, script, output], { skip }) => {
    const missing = programs[name]?.find((program) => !existsSync(`/usr/bin/${program}`));
    skip(missing !== undefined, `this host has no ${missing}`);
    const id = name.replace(/\W+/g, '-').replace(/^(\d)/, 'n$1');
    const result = await containerd.run(id, ['/bin/sh', '-c', script], {
      flags: ['--rm', '--annotation', `io.bulkhead.sentry.profile=${profile}`, ...debian],
      timeout: 110_000,
    });
    expect({ stderr: result.stderr, code: result.code }).toEqual({ stderr: '', code: 0 });
    if (typeof output === 'string') expect(result.stdout).toBe(output);
    else expect(result.stdout).toMatch(output);
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
