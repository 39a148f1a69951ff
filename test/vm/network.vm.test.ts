/** A pod's network through its machine: two namespaces, real connections both ways. */
import { execFileSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/native/index.ts';
import { releaseNetwork, SandboxNetwork, type NetworkState } from '../../src/sandbox/vm/network.ts';
import { until } from '../contract/monitor/harness.ts';
import { Namespace } from './namespaces.ts';
import { VmRig } from './rig.ts';

const warnings: string[] = [];
let pod: Namespace;
let far: Namespace;
let rig: VmRig;
let network: SandboxNetwork;
const saved: NetworkState[] = [];
const servers: ChildProcess[] = [];

beforeAll(async () => {
  [pod, far] = await Promise.all([Namespace.make(), Namespace.make()]);
  // As Calico does it: a /32, and a gateway that only a route of scope link leads to.
  pod.sh(`
    ip link set lo up
    ip link add eth0 mtu 1450 address 02:42:0a:00:00:02 type veth peer name far0 mtu 1450 netns ${far.pid}
    ip addr add 10.7.0.2/32 dev eth0
    ip -6 addr add fd07::2/64 dev eth0 nodad
    ip link set eth0 up
    ip route add 169.254.1.1 dev eth0 scope link
    ip route add default via 169.254.1.1 dev eth0
    ip -6 route add default via fd07::1 dev eth0
    ip neigh add 10.7.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent`);
  far.sh(`
    ip link set lo up
    ip addr add 169.254.1.1/32 dev far0
    ip addr add 192.0.2.1/32 dev lo
    ip -6 addr add fd07::1/64 dev far0 nodad
    ip link set far0 up
    ip route add 10.7.0.2 dev far0`);
  rig = await VmRig.boot({ netns: pod.path });
  network = new SandboxNetwork(
    'pod-1',
    { netns: pod.path, links: [] },
    {
      addon: addon(),
      plug: (device) => rig.machine.plug(device),
      unplug: (device) => rig.machine.unplug(device),
      configure: (setup) => rig.call({ network: setup }),
      warn: (message) => warnings.push(message),
    },
  );
  await network.attach(() => saved.push(structuredClone(network.state)));
});
afterAll(async () => {
  for (const server of servers) server.kill('SIGKILL');
  await rig?.dispose();
  pod?.dispose();
  far?.dispose();
});

const MEGABYTES = 8;
const rate = (started: number): string => ((MEGABYTES * 1000) / (performance.now() - started)).toFixed(0);

/** A web server in the guest and its file's digest. */
async function serveInGuest(port: number): Promise<string> {
  const { out } = await rig.run(
    `mkdir -p /run/web; dd if=/dev/urandom of=/run/web/${port} bs=1M count=${MEGABYTES} 2>/dev/null
     httpd -p ${port} -h /run/web; md5sum < /run/web/${port}`,
  );
  return out;
}

describe('the guest', () => {
  it('has the interface as the pod had it', async () => {
    const { out } = await rig.run('ip addr show eth0; ip route; ip -6 route; ip neigh');
    expect(out).toContain('mtu 1450');
    expect(out).toContain('link/ether 02:42:0a:00:00:02');
    expect(out).toContain('inet 10.7.0.2/32');
    expect(out).toContain('inet6 fd07::2/64 scope global');
    expect(out).not.toContain('tentative');
    expect(out).toContain('default via 169.254.1.1 dev eth0');
    expect(out).toContain('169.254.1.1 dev eth0 scope link');
    expect(out).toContain('default via fd07::1 dev eth0');
    expect(out).toContain('10.7.0.77 dev eth0 lladdr 02:00:00:00:00:77');
    expect(saved.at(-1)?.links).toEqual(['eth0']);
    expect(warnings).toEqual([]);
  });

  it('reaches the far side by IPv4 and IPv6, through the gateway', async () => {
    expect((await rig.run('ping -c 2 -W 5 192.0.2.1')).status).toBe(0);
    expect((await rig.run('ping6 -c 2 -W 5 fd07::1')).status).toBe(0);
  });

  it('sends full packets and none larger', async () => {
    expect((await rig.run('ping -c 1 -W 5 -s 1422 169.254.1.1')).status).toBe(0);
    const { out } = await rig.run('cat /sys/class/net/eth0/mtu');
    expect(out).toBe('1450\n');
  });

  it('serves by TCP what is asked for from outside', async () => {
    const digest = await serveInGuest(80);
    const started = performance.now();
    expect(far.sh('timeout 30 busybox wget -q -O - http://10.7.0.2/80 | md5sum')).toBe(digest);
    console.log(`guest to host: ${rate(started)} MiB/s`);
  });

  it('serves by TCP over IPv6', async () => {
    const digest = await serveInGuest(81);
    expect(far.sh("timeout 30 busybox wget -q -O - 'http://[fd07::2]:81/81' | md5sum")).toBe(digest);
  });

  it('fetches by TCP from outside', async () => {
    const web = join(rig.dir, 'web');
    mkdirSync(web);
    writeFileSync(join(web, 'data'), randomBytes(MEGABYTES * 2 ** 20));
    const server = far.spawn(`exec busybox httpd -f -p 192.0.2.1:80 -h ${web}`);
    servers.push(server);
    await until('a server', () => far.sh('cat /proc/net/tcp').includes('010200C0:0050 '));
    const started = performance.now();
    const fetched = await rig.run(
      'timeout 30 wget -q -O /run/data http://192.0.2.1/data; echo $?; stat -c %s /run/data',
    );
    console.log(`host to guest: ${rate(started)} MiB/s`);
    expect(fetched.out).toBe(`0\n${MEGABYTES * 2 ** 20}\n`);
    const digest = execFileSync('md5sum', { input: readFileSync(join(web, 'data')), encoding: 'utf8' });
    expect((await rig.run('md5sum < /run/data')).out).toBe(digest);
  });

  it('exchanges UDP', async () => {
    const server = far.spawn(
      `exec ${process.execPath} ${join(import.meta.dirname, 'tftp_sink.mjs')} 192.0.2.1`,
    );
    servers.push(server);
    let heard = '';
    server.stdout?.on('data', (chunk: Buffer) => (heard += chunk.toString()));
    await until('a server', () => heard.includes('ready'));
    const sent = await rig.run(
      'seq 1 200 > /run/numbers; timeout 20 tftp -p -l /run/numbers -r numbers 192.0.2.1',
    );
    expect(sent.status).toBe(0);
    await until('the file', () => heard.endsWith('199\n200\n'));
  });

  it('has counters that grow', async () => {
    const { out } = await rig.run(
      'cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/tx_bytes',
    );
    const [received = 0, sent = 0] = out.split('\n').map(Number);
    expect(received).toBeGreaterThan(MEGABYTES * 2 ** 20);
    expect(sent).toBeGreaterThan(2 * MEGABYTES * 2 ** 20);
  });
});

describe('the network of a pod', () => {
  it('is not configured again when nothing has changed', async () => {
    const before = saved.length;
    await network.attach(() => saved.push(structuredClone(network.state)));
    expect(saved.length).toBe(before);
  });

  it('takes interfaces that come later, as Docker brings them between create and start', async () => {
    pod.sh(`
      ip link add net1 mtu 9000 address 02:42:0a:00:00:03 type veth peer name far1 mtu 9000 netns ${far.pid}
      ip addr add 10.8.0.2/24 brd + dev net1
      ip link set net1 up`);
    far.sh('ip addr add 10.8.0.1/24 dev far1; ip link set far1 up');
    const started = performance.now();
    await network.attach(() => saved.push(structuredClone(network.state)));
    console.log(`a further card: ${(performance.now() - started).toFixed(0)} ms`);
    expect((await rig.run('ping -c 2 -W 5 -s 8972 10.8.0.1')).status).toBe(0);
    expect((await rig.run('ip addr show net1')).out).toContain('inet 10.8.0.2/24 brd 10.8.0.255');
    expect((await rig.run('ping -c 1 -W 5 192.0.2.1')).status).toBe(0);
    expect(saved.at(-1)?.links).toEqual(['eth0', 'net1']);
  });

  it('cannot be had by two machines', async () => {
    const second = new SandboxNetwork(
      'pod-2',
      { netns: pod.path, links: [] },
      { addon: addon(), plug: never, unplug: never, configure: never, warn: () => {} },
    );
    await expect(second.attach(() => {})).rejects.toThrow(
      'create pod-2: interface eth0: another virtual machine is tied to it',
    );
    expect(second.state.links).toEqual([]);
    expect((await rig.run('ping -c 1 -W 5 192.0.2.1')).status).toBe(0);
  });

  it('is untied when the machine has gone', async () => {
    await rig.dispose();
    expect(pod.sh('ip -o link')).not.toContain('bhtap');
    expect(pod.sh('tc qdisc show')).toContain('ingress');
    await releaseNetwork(addon(), network.state);
    expect(pod.sh('tc qdisc show')).not.toContain('ingress');
    // The namespace's own kernel answers again.
    pod.sh('busybox ping -c 1 -W 2 192.0.2.1');
  });
});

function never(): Promise<never> {
  return Promise.reject(new Error('not expected'));
}
