import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { ContainerState, CriClient, containerConfig, podConfig } from '../lib/cri.ts';
import { eventually, run, type RunResult } from '../lib/exec.ts';
import { testImage } from '../lib/image.ts';
import { imageDir, scratch } from '../lib/paths.ts';

const servers = join(imageDir, 'servers');
const libraries = '/servers/usr/lib/x86_64-linux-gnu';

const nginxConf = `
user guest guest; worker_processes 2; daemon off; pid /scratch/nginx.pid; error_log /dev/stderr warn;
events { worker_connections 256; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 5;
  client_body_temp_path /scratch/b; proxy_temp_path /scratch/p; fastcgi_temp_path /scratch/f;
  uwsgi_temp_path /scratch/u; scgi_temp_path /scratch/s;
  types { text/plain txt; }
  server {
    listen 80 reuseport; listen [::]:80; root /scratch/www;
    location /proxied { proxy_pass http://127.0.0.1:80/page.txt; }
  }
}`;

/**
 * Debian's own nginx and redis in pods behind the sentry wall, on the network that CNI makes; the clients are on the other
 * side of the pod's veth.
 */
describe('servers behind the sentry wall', () => {
  let containerd: PrivateContainerd;
  let cri: CriClient;
  let logDirectory: string;
  const cgroupParent = `/${basename(scratch())}-pods`;
  const ownPid = { namespaceOptions: { pid: 1 } };
  const pods: string[] = [];

  beforeAll(async () => {
    if (!existsSync(join(servers, '.complete'))) {
      throw new Error('build/test-images/servers is not there: run tools/setup.sh');
    }
    containerd = await PrivateContainerd.start({ cri: { runtime: 'io.containerd.bulkhead-sentry.v2' } });
    logDirectory = join(containerd.dir, 'logs');
    mkdirSync(logDirectory);
    cri = new CriClient(containerd.address);
    await eventually('CRI and CNI to be ready', async () => {
      const { status } = await cri.status({});
      return status?.conditions?.every((condition) => condition.status);
    });
  });
  afterAll(async () => {
    cri?.close();
    await containerd?.stop();
  });

  /** A pod with one container of this host's Debian and the servers; resolves with its address and the container. */
  const serve = async (name: string, script: string): Promise<{ ip: string; container: string }> => {
    const config = podConfig(name, { logDirectory, linux: { cgroupParent, securityContext: ownPid } });
    const { podSandboxId } = await cri.runPodSandbox({ config, runtimeHandler: 'test' });
    pods.push(podSandboxId);
    const work = join(containerd.dir, `work-${name}`);
    mkdirSync(work);
    const readOnly = (hostPath: string, containerPath: string) => ({
      hostPath,
      containerPath,
      readonly: true,
    });
    const { containerId } = await cri.createContainer({
      podSandboxId,
      sandboxConfig: config,
      config: containerConfig(name, testImage, ['/bin/sh', '-c', script], {
        envs: [
          { key: 'LD_LIBRARY_PATH', value: libraries },
          { key: 'PATH', value: '/servers/usr/sbin:/servers/usr/bin:/usr/sbin:/usr/bin:/bin' },
        ],
        mounts: [
          readOnly('/usr', '/usr'),
          readOnly('/usr/bin', '/bin'),
          readOnly('/usr/lib', '/lib'),
          readOnly('/usr/lib64', '/lib64'),
          readOnly(servers, '/servers'),
          { hostPath: work, containerPath: '/scratch' },
        ],
        linux: { securityContext: ownPid, resources: { memoryLimitInBytes: 256 << 20 } },
      }),
    });
    await cri.startContainer({ containerId });
    const { status } = await cri.podSandboxStatus({ podSandboxId });
    return { ip: status?.network?.ip ?? '', container: containerId };
  };

  /** A client on the host's side of the bridge, in containerd's network namespace. */
  const client = (command: readonly string[]): Promise<RunResult> =>
    run('nsenter', ['--net', '--target', String(containerd.pid), '--', ...command], {
      timeout: 50_000,
      env: { PATH: process.env.PATH, LD_LIBRARY_PATH: join(servers, 'usr/lib/x86_64-linux-gnu') },
    });
  const python = async (script: string): Promise<string> => {
    const result = await client(['python3', '-c', script]);
    if (result.code !== 0) throw new Error(result.stderr);
    return result.stdout;
  };
  const logOf = (name: string): string => readFileSync(join(logDirectory, `${name}.log`), 'utf8');
  const running = async (container: string): Promise<boolean> =>
    (await cri.containerStatus({ containerId: container })).status?.state ===
    ContainerState.CONTAINER_RUNNING;

  it('nginx serves files, a proxied page and many clients at once', async () => {
    const make = `mkdir -p /scratch/www && seq 1 100000 > /scratch/www/large.txt && echo hello > /scratch/www/page.txt`;
    const { ip, container } = await serve(
      'nginx',
      `${make} && printf '%s' '${nginxConf}' > /scratch/nginx.conf && exec nginx -e /dev/stderr -p /scratch -c /scratch/nginx.conf`,
    );
    await eventually(
      'nginx to answer',
      async () => (await client(['python3', '-c', get(ip, '/page.txt')])).code === 0,
    ).catch((cause: unknown) => {
      throw new Error(logOf('nginx'), { cause });
    });
    expect(await python(get(ip, '/page.txt'))).toBe('200 6 hello\n\n');
    expect(await python(get(ip, '/proxied'))).toBe('200 6 hello\n\n');
    expect(await python(get(ip, '/missing'))).toMatch(/^404 /);
    expect(
      await python(`
import concurrent.futures, http.client, hashlib
def one(n):
    c = http.client.HTTPConnection("${ip}", timeout=60); seen = set()
    for _ in range(10):
        c.request("GET", "/large.txt"); seen.add(hashlib.sha256(c.getresponse().read()).hexdigest())
    return seen
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    everything = set().union(*pool.map(one, range(20)))
print(len(everything), everything == {hashlib.sha256("".join(f"{i}\\n" for i in range(1, 100001)).encode()).hexdigest()})
`),
    ).toBe('1 True\n');
    const reload = await cri.execText(container, [
      'nginx',
      '-p',
      '/scratch',
      '-c',
      '/scratch/nginx.conf',
      '-s',
      'reload',
    ]);
    expect(reload).toMatchObject({ exitCode: 0 });
    await eventually('the reloaded nginx to answer', async () =>
      (await python(get(ip, '/page.txt'))).startsWith('200'),
    );
    expect(await running(container)).toBe(true);
  });

  it('redis keeps what clients write, also over its own restart', async () => {
    const start =
      'redis-server --dir /scratch --protected-mode no --save "" --appendonly yes --appendfsync everysec';
    const { ip, container } = await serve('redis', `while :; do ${start}; done`);
    const cli = join(servers, 'usr/bin/redis-cli');
    const redis = async (...words: string[]): Promise<string> =>
      (await client([cli, '-h', ip, ...words])).stdout;
    await eventually('redis to answer', async () => (await redis('ping')) === 'PONG\n');
    expect(await redis('set', 'key', 'value')).toBe('OK\n');
    expect(await redis('eval', 'return redis.call("incrby", KEYS[1], 41) + 1', '1', 'n')).toBe('42\n');
    expect(await redis('bgrewriteaof')).toMatch(/^Background append only file rewriting started/);
    await eventually('the rewrite to end', async () =>
      /aof_rewrite_in_progress:0[\s\S]*aof_last_bgrewrite_status:ok/.test(await redis('info', 'persistence')),
    );
    const bench = join(servers, 'usr/bin/redis-benchmark');
    const load = await client([bench, '-h', ip, '-n', '20000', '-c', '30', '-t', 'set,get', '--csv']);
    expect(load.stdout).toMatch(/^"SET","[\d.]+"/m);
    expect(load.stdout).toMatch(/^"GET","[\d.]+"/m);
    await redis('debug', 'restart');
    await redis('shutdown', 'nosave');
    await eventually('redis to answer again', async () => (await redis('ping')) === 'PONG\n');
    expect(await redis('get', 'key')).toBe('value\n');
    expect(await running(container)).toBe(true);
  });

  it('pods reach each other, and a client in a pod is a client like any other', async () => {
    const { ip } = await serve(
      'peer',
      'echo peer > /scratch/page.txt; cd /scratch && exec python3 -m http.server 8080',
    );
    const { container } = await serve('caller', 'exec sleep 1000');
    await eventually('the page', async () => {
      const seen = await cri.execText(container, ['python3', '-c', get(`${ip}:8080`, '/page.txt')]);
      return seen.stdout === '200 5 peer\n\n';
    });
  });

  it('leave nothing behind', async () => {
    for (const pod of pods) await cri.removePod(pod);
    expect(await containerd.leaks()).toEqual([]);
  });
});

/** Python that prints status, length and body of a page. */
function get(host: string, path: string): string {
  return `
import http.client
c = http.client.HTTPConnection("${host}", timeout=60); c.request("GET", "${path}"); r = c.getresponse(); b = r.read()
print(r.status, len(b), b.decode())
`;
}
