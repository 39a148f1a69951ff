import { openSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import type { AddonError, NetnsInventory, NetnsLink } from '../../native/addon.d.ts';
import type { NetDevice } from './hypervisor/hypervisor.ts';
import { podNamespace, releaseNetwork, SandboxNetwork, type NetworkState } from './network.ts';

const veth = (index: number, name: string): NetnsLink => ({
  index,
  name,
  kind: 'veth',
  type: 1,
  mac: `02:00:00:00:00:0${index}`,
  mtu: 1500,
  flags: 0x1043,
  master: 0,
  mode: 0,
});
const tapOf = (index: number): NetnsLink => ({ ...veth(index + 40, `bhtap${index}`), kind: 'tun', mode: 2 });

function addonError(syscall: string, code: string, text: string, reason?: string): AddonError {
  const error = new Error(`${syscall} /ns: ${text}`) as AddonError & { reason?: string };
  Object.assign(error, { errno: 1, code, syscall, path: '/ns' }, reason === undefined ? {} : { reason });
  return error;
}

let calls: string[];
let links: NetnsLink[];
let failing: Record<string, unknown>;
let warnings: string[];
let saved: NetworkState[];

beforeEach(() => {
  calls = [];
  links = [veth(2, 'eth0')];
  failing = {};
  warnings = [];
  saved = [];
});

function did(call: string): void {
  calls.push(call);
  const failure = failing[call];
  if (failure !== undefined) throw failure as Error;
}

function network(state: NetworkState = { netns: '/ns', links: [] }): SandboxNetwork {
  return new SandboxNetwork('pod-1', state, {
    addon: {
      netnsInventory: async (): Promise<NetnsInventory> => {
        did('inventory');
        return { links, addresses: [], routes: [], neighbours: [] };
      },
      tapBridge: async (_, link, { tap }) => {
        did(`bridge ${link} ${tap}`);
        links.push(tapOf(Number(tap.slice('bhtap'.length))));
        return { fd: openSync('/dev/null', 'r'), name: tap };
      },
      tapUnbridge: async (_, link) => did(`unbridge ${link}`),
    },
    plug: async ({ id, mac, mtu }: NetDevice) => did(`plug ${id} ${mac} ${mtu}`),
    unplug: async (id) => did(`unplug ${id}`),
    configure: async ({ interfaces }) =>
      did(`configure ${(interfaces ?? []).map(({ name }) => name).join(' ')}`.trim()),
    warn: (message) => warnings.push(message),
  });
}
const attach = (to: SandboxNetwork): Promise<void> => to.attach(() => saved.push(structuredClone(to.state)));

describe('attaching the pod’s network', () => {
  it('ties every interface to a card, then configures the guest', async () => {
    links.push(veth(3, 'net1'));
    await attach(network());
    expect(calls).toEqual([
      'inventory',
      'bridge eth0 bhtap2',
      'plug nic2 02:00:00:00:00:02 1500',
      'bridge net1 bhtap3',
      'plug nic3 02:00:00:00:00:03 1500',
      'configure eth0 net1',
    ]);
    expect(saved).toEqual([{ netns: '/ns', links: ['eth0', 'net1'] }]);
  });

  it('has nothing to do without interfaces', async () => {
    links = [];
    await attach(network());
    expect(calls).toEqual(['inventory']);
  });

  it('adds what has come since, and does nothing when nothing has', async () => {
    const own = network();
    await attach(own);
    calls = [];
    await attach(own);
    expect(calls).toEqual(['inventory']);
    links.push(veth(3, 'net1'));
    await attach(own);
    expect(calls).toEqual([
      'inventory',
      'inventory',
      'bridge net1 bhtap3',
      'plug nic3 02:00:00:00:00:03 1500',
      'configure eth0 net1',
    ]);
    expect(own.state.links).toEqual(['eth0', 'net1']);
  });

  it('goes on after a restart of the engine', async () => {
    links.push(tapOf(2));
    await attach(network({ netns: '/ns', links: ['eth0'] }));
    expect(calls).toEqual(['inventory', 'configure eth0']);
  });

  it('runs one after the other', async () => {
    const own = network();
    await Promise.all([attach(own), attach(own)]);
    expect(calls.filter((call) => call.startsWith('configure'))).toHaveLength(1);
  });

  it.each([
    ['bridge net1 bhtap3', ['unplug nic2', 'unbridge eth0']],
    ['plug nic3 02:00:00:00:00:03 1500', ['unbridge net1', 'unplug nic2', 'unbridge eth0']],
    ['configure eth0 net1', ['unplug nic2', 'unbridge eth0', 'unplug nic3', 'unbridge net1']],
  ])('takes everything back when it fails at "%s"', async (call, undone) => {
    links.push(veth(3, 'net1'));
    failing[call] = addonError('filter', 'EINVAL', 'invalid argument');
    const own = network();
    await expect(attach(own)).rejects.toThrow('invalid argument');
    expect(calls.slice(calls.indexOf(call) + 1)).toEqual(undone);
    expect(own.state.links).toEqual([]);
    expect(saved.at(-1)?.links).toEqual([]);
  });

  it.each<[string, AddonError, string]>([
    [
      'inventory',
      addonError('open', 'ENOENT', 'no such file or directory'),
      'create pod-1: network namespace /ns: no such file or directory',
    ],
    [
      'inventory',
      addonError('setns', 'EINVAL', 'invalid argument'),
      'create pod-1: network namespace /ns: the file is no network namespace',
    ],
    [
      'bridge eth0 bhtap2',
      addonError('TUNSETIFF', 'EBUSY', 'device or resource busy'),
      'create pod-1: interface eth0: another virtual machine is tied to it',
    ],
    [
      'bridge eth0 bhtap2',
      addonError('filter', 'ENOENT', 'no such file or directory', 'TC classifier not found'),
      'create pod-1: interface eth0: no such file or directory (TC classifier not found)',
    ],
  ])('says in a sentence why %s failed', async (call, failure, message) => {
    failing[call] = failure;
    await expect(attach(network())).rejects.toThrow(message);
  });
});

describe('releasing it', () => {
  it('unties every interface, whatever has gone already', async () => {
    failing['unbridge eth0'] = addonError('open', 'ENOENT', 'no such file or directory');
    const { addon } = depsOf();
    await releaseNetwork(addon, { netns: '/ns', links: ['eth0', 'net1'] });
    expect(calls).toEqual(['unbridge eth0', 'unbridge net1']);
  });
});

function depsOf(): { addon: Parameters<typeof releaseNetwork>[0] } {
  const never = (): never => {
    throw new Error('not expected');
  };
  return {
    addon: {
      netnsInventory: never,
      tapBridge: never,
      tapUnbridge: async (_, link) => did(`unbridge ${link}`),
    },
  };
}

describe('the namespace that a pod asks for', () => {
  const spec = (namespaces: { type: string; path?: string }[]): Parameters<typeof podNamespace>[1] =>
    ({ linux: { namespaces } }) as Parameters<typeof podNamespace>[1];

  it('is the one of its path, or one of its own', () => {
    expect(podNamespace('c', spec([{ type: 'network', path: '/run/netns/x' }]))).toBe('/run/netns/x');
    expect(podNamespace('c', spec([{ type: 'network' }]))).toBe('');
  });

  it.each([
    ['no network namespace', spec([{ type: 'pid' }])],
    ['the path of the host’s', spec([{ type: 'network', path: '/proc/thread-self/ns/net' }])],
  ])('is refused with %s', (_, given) => {
    expect(() => podNamespace('c', given)).toThrow(
      expect.objectContaining({
        code: ErrorCode.InvalidArgument,
        message:
          "create c: network: a virtual machine cannot be in the host's network namespace; " +
          'run the pod without host networking, or with the runtime handler of another wall',
      }) as Error,
    );
  });
});
