import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { run } from '../lib/exec.ts';
import { prefix } from '../lib/paths.ts';
import { debian } from './programs.ts';

/** Python that tries to reach 127.0.0.1:7000 in every way that there is; prints "NAME RESULT" lines. */
const attempts = `
import errno, os, socket, sys, ctypes
for family, where in ((socket.AF_INET, ("127.0.0.1", 7000)), (socket.AF_INET6, ("::1", 7000))):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(where); s.listen(50)
    u = socket.socket(family, socket.SOCK_DGRAM); u.bind(where)
    globals().setdefault("keep", []).extend((s, u))
s = socket.socket(); s.bind(("127.0.0.1", 7100)); s.listen(50); keep.append(s)
def attempt(name, what):
    try: what(); print(name, "reached")
    except OSError as e: print(name, errno.errorcode[e.errno])
V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
attempt("tcp", lambda: socket.socket(V4, TCP).connect(("127.0.0.1", 7000)))
attempt("any", lambda: socket.socket(V4, TCP).connect(("0.0.0.0", 7000)))
attempt("mapped", lambda: socket.socket(V6, TCP).connect(("::ffff:127.0.0.1", 7000)))
attempt("mapped-any", lambda: socket.socket(V6, TCP).connect(("::ffff:0.0.0.0", 7000)))
attempt("tcp6", lambda: socket.socket(V6, TCP).connect(("::1", 7000)))
attempt("any6", lambda: socket.socket(V6, TCP).connect(("::", 7000)))
attempt("fastopen", lambda: socket.socket(V4, TCP).sendto(b"x", 0x20000000, ("127.0.0.1", 7000)))
attempt("udp", lambda: socket.socket(V4, UDP).connect(("127.0.0.1", 7000)))
attempt("sendto", lambda: socket.socket(V4, UDP).sendto(b"x", ("127.0.0.1", 7000)))
attempt("sendmsg", lambda: socket.socket(V4, UDP).sendmsg([b"x"], [], 0, ("127.0.0.1", 7000)))
attempt("sendto6", lambda: socket.socket(V6, UDP).sendto(b"x", ("::ffff:127.0.0.1", 7000)))
attempt("other", lambda: socket.socket(V4, TCP).connect(("127.0.0.1", 7100)))
attempt("bind", lambda: socket.socket(V4, TCP).bind(("0.0.0.0", 7500)))
attempt("bind6", lambda: socket.socket(V6, UDP).bind(("::", 7500)))
attempt("bind-other", lambda: socket.socket(V4, TCP).bind(("0.0.0.0", 7501)))
print("done", flush=True)
if len(sys.argv) > 1:
    import time; time.sleep(1000)
`;

const closed = [
  'tcp',
  'any',
  'mapped',
  'mapped-any',
  'tcp6',
  'any6',
  'fastopen',
  'udp',
  'sendto',
  'sendmsg',
  'sendto6',
  'bind',
  'bind6',
];
const open = ['other', 'bind-other'];
const rules = [
  '--annotation',
  'io.bulkhead.sentry.connect=deny 127.0.0.0/8 7000; deny [::1] 7000; allow *',
  '--annotation',
  'io.bulkhead.sentry.bind=deny * 7500; allow *',
];

describe('rules for sockets', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
  });
  afterAll(() => containerd?.stop());

  const results = async (id: string, flags: readonly string[]): Promise<Map<string, string>> => {
    const result = await containerd.run(id, ['python3', '-c', attempts], {
      flags: ['--rm', ...debian, ...flags],
    });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    return new Map(
      result.stdout
        .trim()
        .split('\n')
        .map((line) => line.split(' ') as [string, string]),
    );
  };

  it('close every way to what they deny, and nothing else', async () => {
    const found = await results('ruled', rules);
    expect(closed.filter((name) => found.get(name) !== 'EPERM')).toEqual([]);
    expect(open.filter((name) => found.get(name) !== 'reached')).toEqual([]);
  });

  it('are not there unless asked for', async () => {
    const found = await results('free', []);
    expect([...closed, ...open].filter((name) => found.get(name) !== 'reached')).toEqual([]);
  });

  it('only count in an audit, by destination', async () => {
    const flags = [...debian, ...rules, '--annotation', 'io.bulkhead.sentry.audit=true'];
    const log = join(containerd.dir, 'audited.log');
    await containerd.detached(
      'audited',
      ['python3', '-c', attempts, 'stay'],
      ['--log-uri', `file://${log}`, ...flags],
    );
    const all = await run('sh', ['-c', `until grep -q done ${log}; do sleep 0.1; done; cat ${log}`], {
      timeout: 20_000,
    });
    expect(all.stdout.match(/^[\w-]+ E\w+$/gm) ?? []).toEqual([]);
    const stats = await run(join(prefix, 'bin/bulkhead'), ['sentry', 'stats', '-f', 'json', 'audited'], {
      env: { ...process.env, BULKHEAD_ROOT: containerd.bulkheadRoot },
    });
    expect(stats.stderr).toBe('');
    const [{ namespace, sockets }] = JSON.parse(stats.stdout);
    expect(namespace).toBe(containerd.namespace);
    const counted = (operation: string, protocol: string, address: string, port: number): number =>
      sockets.find(
        (one: { operation: string; protocol: string; address: string; port: number }) =>
          one.operation === operation &&
          one.protocol === protocol &&
          one.address === address &&
          one.port === port,
      )?.count ?? 0;
    expect(counted('connect', 'tcp', '127.0.0.1', 7000)).toBeGreaterThanOrEqual(3);
    expect(counted('send', 'udp', '127.0.0.1', 7000)).toBeGreaterThanOrEqual(2);
    expect(counted('connect', 'tcp', '0:0:0:0:0:0:0:1', 7000)).toBeGreaterThanOrEqual(1);
    expect(counted('bind', 'tcp', '0.0.0.0', 7500)).toBe(1);
    await containerd.remove('audited');
  });

  it.each([
    ['open *', 'rule "open *": begins with neither allow nor deny'],
    ['allow tcp 10.0.0.0/8', 'the last rule is neither "allow *" nor "deny *"'],
  ])('are refused in one sentence: %s', async (text, reason) => {
    const flags = ['--annotation', `io.bulkhead.sentry.connect=${text}`];
    const result = await containerd.run('bad', ['true'], { flags });
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain(`create bad: annotation io.bulkhead.sentry.connect: ${reason}`);
    await containerd.ctr(['container', 'rm', 'bad']);
  });

  it('leave nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
