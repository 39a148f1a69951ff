import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually, run } from '../lib/exec.ts';
import { testImage } from '../lib/image.ts';
import { vm } from './machines.ts';

/** A pod's network namespace, as a network plugin leaves it, and the guest's part in it. */
describe('the network of a pod, behind the vm wall', () => {
  let containerd: PrivateContainerd;
  const netns = '/run/netns/vm-pod';
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
    await sh(`
      ip netns add vm-pod
      ip netns add vm-far
      ip link add eth0 netns vm-pod mtu 1400 type veth peer name far0 mtu 1400 netns vm-far
      ip -n vm-pod addr add 10.11.0.2/24 dev eth0
      ip -n vm-pod link set eth0 up
      ip -n vm-pod route add default via 10.11.0.1
      ip -n vm-far addr add 10.11.0.1/24 dev far0
      ip -n vm-far addr add 192.0.2.7/32 dev lo
      ip -n vm-far link set far0 up
      ip -n vm-far link set lo up`);
  });
  afterAll(async () => {
    await run('sh', ['-c', 'ip netns del vm-pod; ip netns del vm-far']);
    await containerd?.stop();
  });

  async function sh(script: string): Promise<string> {
    const result = await run('sh', ['-ec', script]);
    if (result.code !== 0) throw new Error(result.stderr);
    return result.stdout;
  }
  const inPod = ['--with-ns', `network:${netns}`];

  it('is the guest’s: addresses, routes and a connection each way', async () => {
    const web = join(containerd.dir, 'web');
    mkdirSync(web);
    writeFileSync(join(web, 'page'), 'from outside\n');
    const server = spawn('ip', [
      'netns',
      'exec',
      'vm-far',
      'busybox',
      'httpd',
      '-f',
      '-p',
      '192.0.2.7:80',
      '-h',
      web,
    ]);
    try {
      const script = 'mkdir /tmp/www; echo from the guest > /tmp/www/page; exec httpd -f -p 8080 -h /tmp/www';
      await containerd.detached('web', ['sh', '-c', script], inPod);
      await eventually(
        'the guest to serve',
        async () => {
          const got = await run('ip', [
            'netns',
            'exec',
            'vm-far',
            'busybox',
            'wget',
            '-q',
            '-O',
            '-',
            'http://10.11.0.2:8080/page',
          ]);
          return got.stdout === 'from the guest\n';
        },
        600_000,
      );
      const seen = await containerd.exec('web', 'seen', [
        'sh',
        '-c',
        'ip -o addr show eth0; ip route; cat /sys/class/net/eth0/mtu; wget -q -O - http://192.0.2.7/page',
      ]);
      expect(seen.stdout).toContain('inet 10.11.0.2/24');
      expect(seen.stdout).toContain('default via 10.11.0.1 dev eth0');
      expect(seen.stdout).toMatch(/1400\nfrom outside\n$/);
    } finally {
      server.kill('SIGKILL');
      await containerd.remove('web');
    }
    expect(await sh('ip -n vm-pod -o link; tc -n vm-pod qdisc show')).not.toMatch(/bhtap|ingress/);
  });

  // As Docker 26 and later do; `ctr run --cni` calls the plugins between Create and Start of the task.
  it('may be made between create and start', async () => {
    // ctr looks for plugins and networks in these places only.
    const [plugins, networks] = ['/opt/cni/bin', '/etc/cni/net.d'];
    const made = [plugins, networks].map((path) => mkdirSync(path, { recursive: true }));
    await sh(`mount --bind /usr/lib/cni ${plugins}; mount -t tmpfs tmpfs ${networks}`);
    try {
      const ipam = { type: 'host-local', dataDir: join(containerd.dir, 'ipam'), subnet: '10.12.0.0/24' };
      const plugin = { type: 'bridge', bridge: 'vm-late', isGateway: true, ipam };
      const network = { cniVersion: '0.4.0', name: 'late', plugins: [plugin] };
      writeFileSync(join(networks, '10-late.conflist'), JSON.stringify(network));
      const command = [
        'sh',
        '-c',
        'mkdir /tmp/www; echo late > /tmp/www/page; exec httpd -f -p 80 -h /tmp/www',
      ];
      const ctr = containerd.command(['run', '-d', '--cni', '--runtime', vm, testImage, 'late', ...command]);
      const far = ['--net=/run/netns/vm-far', '--'];
      const started = await run('nsenter', [...far, ctr.file, ...ctr.args], { env: ctr.env });
      expect(started).toMatchObject({ code: 0, stderr: '' });
      const fetch = ['busybox', 'wget', '-q', '-O', '-', 'http://10.12.0.2/page'];
      await eventually('the guest to serve', async () => {
        const { stdout } = await run('nsenter', [...far, ...fetch]);
        return stdout === 'late\n';
      });
      await containerd.remove('late');
    } finally {
      await sh(`umount ${plugins}; umount ${networks}`);
      for (const path of made) if (path !== undefined) rmSync(path, { recursive: true });
    }
  });

  it('is not the host’s', async () => {
    const result = await containerd.run('host', ['true'], { flags: ['--rm', '--net-host'] });
    expect(result.stderr).toMatch(/host's network namespace|share the host's network/);
  });
});
