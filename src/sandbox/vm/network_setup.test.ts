import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { NetnsInventory, NetnsLink, NetnsRoute } from '../../native/addon.d.ts';
import { ipBytes, macBytes } from './ip.ts';
import { podNetwork } from './network_setup.ts';

const UP = 0x1043;

function link(index: number, name: string, more: Partial<NetnsLink> = {}): NetnsLink {
  return {
    index,
    name,
    kind: 'veth',
    type: 1,
    mac: `02:00:00:00:00:${index.toString(16).padStart(2, '0')}`,
    mtu: 1500,
    flags: UP,
    master: 0,
    mode: 0,
    ...more,
  };
}

const lo = link(1, 'lo', { type: 772, kind: '', mac: '00:00:00:00:00:00', mtu: 65536 });
const route = (more: Partial<NetnsRoute>): NetnsRoute => ({
  family: 2,
  prefix: 0,
  index: 2,
  table: 254,
  protocol: 3,
  scope: 0,
  type: 1,
  flags: 0,
  priority: 0,
  mtu: 0,
  multipath: false,
  ...more,
});
const inventory = (more: Partial<NetnsInventory>): NetnsInventory => ({
  links: [lo, link(2, 'eth0')],
  addresses: [],
  routes: [],
  neighbours: [],
  ...more,
});
const address = { index: 2, address: '10.1.0.5', prefix: 16, scope: 0, flags: 0x80 };

function refused(links: NetnsLink[], more: Partial<NetnsInventory> = {}): RuntimeError {
  try {
    podNetwork('pod-1', inventory({ links: [lo, ...links], ...more }));
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('not refused');
}

describe('the network of a pod', () => {
  it('is nothing in a new namespace', () => {
    const tunnels = ['tunl0', 'sit0', 'gre0'].map((name, index) =>
      link(index + 2, name, { type: 768, flags: 0x80, kind: '' }),
    );
    const found = podNetwork('pod-1', inventory({ links: [lo, ...tunnels] }));
    expect(found.nics).toEqual([]);
    expect(found.setup).toEqual({ interfaces: [], routes: [], neighbours: [] });
    expect(found.ignored).toEqual([]);
  });

  it('is a card for every interface in use, with its hardware address', () => {
    const links = [
      lo,
      link(2, 'eth0', { mtu: 1450 }),
      link(5, 'net1', { kind: 'macvlan', mtu: 9000 }),
      link(6, 'net2', { flags: 0x1002 }), // down, without an address
    ];
    const { nics, setup } = podNetwork('pod-1', inventory({ links, addresses: [address] }));
    expect(nics).toEqual([
      { link: 'eth0', index: 2, mac: '02:00:00:00:00:02', mtu: 1450, tap: 'bhtap2', device: 'nic2' },
      { link: 'net1', index: 5, mac: '02:00:00:00:00:05', mtu: 9000, tap: 'bhtap5', device: 'nic5' },
    ]);
    expect(setup.interfaces).toEqual([
      {
        mac: macBytes('02:00:00:00:00:02'),
        name: 'eth0',
        mtu: 1450,
        down: false,
        addresses: [{ address: ipBytes('10.1.0.5'), prefix: 16, scope: 0, flags: 0 }],
      },
      { mac: macBytes('02:00:00:00:00:05'), name: 'net1', mtu: 9000, down: false, addresses: [] },
    ]);
  });

  it('leaves its own taps and the ports of a bridge alone', () => {
    const links = [
      lo,
      link(2, 'eth0', { kind: 'bridge' }),
      link(3, 'port0', { master: 2 }),
      link(4, 'bhtap2', { kind: 'tun', mode: 2 }),
    ];
    expect(podNetwork('pod-1', inventory({ links })).nics.map((nic) => nic.link)).toEqual(['eth0']);
  });

  it('keeps an address that is down, and says which the guest does not get', () => {
    const links = [
      lo,
      link(2, 'eth0', { flags: 0x1002 }),
      link(3, 'nodelocal', { kind: 'dummy', flags: UP | 0x80 }),
    ];
    const found = podNetwork('pod-1', inventory({ links, addresses: [address] }));
    expect(found.setup.interfaces?.[0]).toMatchObject({ name: 'eth0', down: true });
    expect(found.ignored).toEqual(['interface nodelocal: the guest does not get dummy interfaces']);
  });

  it('takes the duplicate address detection of IPv6 for done, and leaves temporary addresses out', () => {
    const addresses = [
      { index: 2, address: 'fd00::2', prefix: 64, scope: 0, flags: 0x80 | 0x40 },
      { index: 2, address: 'fd00::abcd', prefix: 64, scope: 0, flags: 0x01 },
      { index: 2, address: 'fe80::2', prefix: 64, scope: 253, flags: 0x280 },
      { index: 2, address: '127.1.0.1', prefix: 8, scope: 254, flags: 0x80 },
      { ...address, peer: '10.1.0.6', prefix: 32, broadcast: '10.1.0.7' },
    ];
    const { setup } = podNetwork('pod-1', inventory({ addresses }));
    expect(setup.interfaces?.[0]?.addresses).toEqual([
      { address: ipBytes('fd00::2'), prefix: 64, scope: 0, flags: 2 },
      { address: ipBytes('fe80::2'), prefix: 64, scope: 253, flags: 0x202 },
      {
        address: ipBytes('10.1.0.5'),
        prefix: 32,
        peer: ipBytes('10.1.0.6'),
        broadcast: ipBytes('10.1.0.7'),
        scope: 0,
        flags: 0,
      },
    ]);
  });

  it('copies the routes that somebody made', () => {
    const routes = [
      route({ gateway: '169.254.1.1', flags: 4 | 16, mtu: 1400, priority: 10 }),
      route({ destination: '10.9.0.0', prefix: 16, scope: 253, source: '10.1.0.5', table: 100 }),
      route({ destination: '10.66.0.0', prefix: 16, type: 6, index: 0 }), // blackhole
      route({ destination: 'fd09::', prefix: 32, family: 10, type: 7, index: 1 }), // unreachable, by lo
      route({ destination: '10.1.0.0', prefix: 16, protocol: 2 }), // the kernel's
      route({ protocol: 9, family: 10 }), // by router advertisement
      route({ destination: '10.1.0.5', prefix: 32, table: 255, type: 2 }), // local
      route({ destination: '10.3.0.0', prefix: 16, index: 9 }), // of an interface that is not given
    ];
    const { setup, ignored } = podNetwork('pod-1', inventory({ routes }));
    expect(ignored).toEqual([]);
    expect(setup.routes).toEqual([
      {
        family: 2,
        prefix: 0,
        gateway: ipBytes('169.254.1.1'),
        device: 'eth0',
        table: 254,
        protocol: 3,
        scope: 0,
        type: 1,
        priority: 10,
        flags: 4,
        mtu: 1400,
      },
      expect.objectContaining({ destination: ipBytes('10.9.0.0'), scope: 253, table: 100, device: 'eth0' }),
      expect.not.objectContaining({ device: expect.anything() as string }),
      expect.objectContaining({ destination: ipBytes('fd09::'), type: 7, family: 10 }),
    ]);
  });

  it('says which routes the guest does not get', () => {
    const routes = [
      route({ multipath: true, index: 0, destination: '10.4.0.0', prefix: 14 }),
      route({ multipath: true, index: 0 }),
    ];
    const { setup, ignored } = podNetwork('pod-1', inventory({ routes }));
    expect(setup.routes).toEqual([]);
    expect(ignored).toEqual([
      'route 10.4.0.0/14: the guest does not get routes of several next hops',
      'route default: the guest does not get routes of several next hops',
    ]);
  });

  it('copies the neighbours that somebody entered', () => {
    const neighbours = [
      { index: 2, address: '169.254.1.1', mac: 'ee:ee:ee:ee:ee:ee', state: 0x80, flags: 0 },
      { index: 2, address: '10.1.0.9', mac: '02:00:00:00:00:09', state: 2, flags: 0 },
      { index: 2, address: '10.1.0.10', mac: '', state: 0x80, flags: 8 },
      { index: 7, address: '10.1.0.11', mac: '02:00:00:00:00:09', state: 0x80, flags: 0 },
    ];
    const { setup } = podNetwork('pod-1', inventory({ neighbours }));
    expect(setup.neighbours).toEqual([
      {
        device: 'eth0',
        address: ipBytes('169.254.1.1'),
        mac: macBytes('ee:ee:ee:ee:ee:ee'),
        state: 0x80,
        flags: 0,
      },
    ]);
  });

  it.each<[string, NetnsLink[], string]>([
    [
      'a wireguard interface',
      [link(2, 'wg0', { kind: 'wireguard', type: 65534 })],
      'create pod-1: interface wg0: a virtual machine gets Ethernet interfaces only, and this wireguard interface is none',
    ],
    [
      'a tun interface',
      [link(2, 'tun0', { kind: 'tun', type: 1, mode: 1 })],
      'create pod-1: interface tun0: a virtual machine gets Ethernet interfaces only, and this tun interface is none',
    ],
    [
      'netkit in L3 mode',
      [link(2, 'eth0', { kind: 'netkit', mode: 1, flags: UP | 0x80 })],
      'create pod-1: interface eth0: an interface without link-layer addresses (netkit) cannot be given to a virtual machine; ' +
        'have the network plugin use its L2 mode',
    ],
    [
      'ipvlan in L3 mode',
      [link(2, 'eth0', { kind: 'ipvlan', mode: 2, flags: UP })],
      'create pod-1: interface eth0: an interface without link-layer addresses (ipvlan) cannot be given to a virtual machine; ' +
        'have the network plugin use its L2 mode',
    ],
    [
      'an interface without an address',
      [link(2, 'eth0', { mac: '00:00:00:00:00:00' })],
      'create pod-1: interface eth0: it has no hardware address',
    ],
    [
      'twins',
      [link(2, 'eth0'), link(3, 'net1', { kind: 'ipvlan', mac: '02:00:00:00:00:02' })],
      'create pod-1: interface net1: it has the same hardware address as eth0',
    ],
  ])('refuses %s', (_, links, message) => {
    const error = refused(links);
    expect(error.message).toBe(message);
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
  });
});
