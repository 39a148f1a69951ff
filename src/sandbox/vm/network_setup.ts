/**
 * From what a pod's network namespace holds to what its guest shall have: one network card for every interface that
 * carries Ethernet frames, with that interface's hardware address, and the same addresses, routes and neighbours. Pure.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { NetnsAddress, NetnsInventory, NetnsLink, NetnsRoute } from '../../native/addon.d.ts';
import { ipBytes, macBytes } from './ip.ts';

type INetworkSetup = bulkhead.agent.v1.INetworkSetup;
type INetworkInterface = bulkhead.agent.v1.INetworkInterface;
type IInterfaceAddress = bulkhead.agent.v1.IInterfaceAddress;
type INetworkRoute = bulkhead.agent.v1.INetworkRoute;
type INetworkNeighbour = bulkhead.agent.v1.INetworkNeighbour;

// Numbers of linux/if.h, if_arp.h, if_addr.h, rtnetlink.h and neighbour.h.
const IFF_UP = 0x1;
const IFF_NOARP = 0x80;
const ARPHRD_ETHER = 1;
const ARPHRD_LOOPBACK = 772;
const TUN_TAP = 2;
const IFA_F_SECONDARY = 0x01; // of IPv6: temporary
const IFA_F_NODAD = 0x02;
const IFA_F_NOPREFIXROUTE = 0x200;
const RT_SCOPE_HOST = 254;
const RT_TABLE_LOCAL = 255;
const RTPROT_KERNEL = 2;
const RTPROT_RA = 9;
const RTN_UNICAST = 1;
/** blackhole, unreachable, prohibit */
const RTN_REFUSING = [6, 7, 8];
const RTNH_F_ONLINK = 4;
const NUD_PERMANENT = 0x80;
const NTF_PROXY = 0x08;
const AF_INET = 2;
const AF_INET6 = 10;

/** Kinds that nothing arrives from: they only hold addresses, or filter what others send. */
const HOLDERS = ['dummy', 'ifb'];
const TAP_PREFIX = 'bhtap';

/** An interface of the pod that the guest gets a network card for. */
export interface PodNic {
  link: string;
  index: number;
  mac: string;
  mtu: number;
  /** Name of the tap beside it. */
  tap: string;
  /** Id of the machine's device. */
  device: string;
}

export interface PodNetwork {
  nics: PodNic[];
  setup: INetworkSetup;
  /** What the guest will lack, as sentences. */
  ignored: string[];
}

/** Whether a link is one of our taps. */
export function isOwnTap({ name, kind }: NetnsLink): boolean {
  return kind === 'tun' && new RegExp(`^${TAP_PREFIX}\\d+$`).test(name);
}

/**
 * Interfaces that are down and have no address are passed over: tunnels that every namespace has, and what is not
 * configured yet.
 * @throws RuntimeError when an interface in use cannot be given to a virtual machine
 */
export function podNetwork(id: string, inventory: NetnsInventory): PodNetwork {
  const ignored: string[] = [];
  const used = inventory.links.filter((link) => isCandidate(link) && isUsed(link, inventory));
  const links = used.filter((link) => {
    if (!HOLDERS.includes(link.kind)) return true;
    ignored.push(`interface ${link.name}: the guest does not get ${link.kind} interfaces`);
    return false;
  });
  for (const link of links) checkLink(id, link, links);
  const names = new Map(links.map(({ index, name }) => [index, name]));
  return {
    nics: links.map(nic),
    setup: {
      interfaces: links.map((link) => guestInterface(link, inventory)),
      routes: inventory.routes.flatMap((route) => guestRoute(route, names, ignored)),
      neighbours: guestNeighbours(inventory, names),
    },
    ignored,
  };
}

function isCandidate(link: NetnsLink): boolean {
  return link.type !== ARPHRD_LOOPBACK && link.master === 0 && !isOwnTap(link);
}

function isUsed({ index, flags }: NetnsLink, { addresses }: NetnsInventory): boolean {
  return (flags & IFF_UP) !== 0 || addresses.some((address) => address.index === index);
}

function nic({ name, index, mac, mtu }: NetnsLink): PodNic {
  return { link: name, index, mac, mtu, tap: `${TAP_PREFIX}${index}`, device: `nic${index}` };
}

function checkLink(id: string, link: NetnsLink, all: readonly NetnsLink[]): void {
  const refuse = (reason: string, remedy?: string): RuntimeError =>
    new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `interface ${link.name}`,
      reason,
      remedy,
    });
  const kind = link.kind === '' ? '' : `${link.kind} `;
  if (link.type !== ARPHRD_ETHER || (link.kind === 'tun' && link.mode !== TUN_TAP))
    throw refuse(`a virtual machine gets Ethernet interfaces only, and this ${kind}interface is none`);
  if ((link.flags & IFF_NOARP) !== 0 || (link.mode !== 0 && ['ipvlan', 'netkit'].includes(link.kind)))
    throw refuse(
      `an interface without link-layer addresses (${link.kind || 'hardware'}) cannot be given to a virtual machine`,
      'have the network plugin use its L2 mode',
    );
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(link.mac) || /^(00:){5}00$/.test(link.mac))
    throw refuse('it has no hardware address');
  const twin = all.find(({ index, mac }) => index < link.index && mac === link.mac);
  if (twin !== undefined) throw refuse(`it has the same hardware address as ${twin.name}`);
}

function guestInterface(link: NetnsLink, { addresses }: NetnsInventory): INetworkInterface {
  return {
    mac: macBytes(link.mac),
    name: link.name,
    mtu: link.mtu,
    addresses: addresses.filter(({ index }) => index === link.index).flatMap(guestAddress),
    down: (link.flags & IFF_UP) === 0,
  };
}

/** Addresses of the kernel's making that change by themselves (RFC 8981) are left out. */
function guestAddress(own: NetnsAddress): IInterfaceAddress[] {
  const isV6 = own.address.includes(':');
  if (own.scope === RT_SCOPE_HOST || (isV6 && (own.flags & IFA_F_SECONDARY) !== 0)) return [];
  return [
    {
      address: ipBytes(own.address),
      prefix: own.prefix,
      ...(own.peer === undefined ? {} : { peer: ipBytes(own.peer) }),
      ...(own.broadcast === undefined ? {} : { broadcast: ipBytes(own.broadcast) }),
      scope: own.scope,
      // The pod's namespace has made sure already that nobody else has it: a second time would take a second.
      flags: (own.flags & IFA_F_NOPREFIXROUTE) | (isV6 ? IFA_F_NODAD : 0),
    },
  ];
}

/** Routes that the guest's kernel makes itself, from addresses or router advertisements, are left out. */
function guestRoute(
  route: NetnsRoute,
  names: ReadonlyMap<number, string>,
  ignored: string[],
): INetworkRoute[] {
  const { family, table, protocol, type } = route;
  if (table === RT_TABLE_LOCAL || protocol === RTPROT_KERNEL || protocol === RTPROT_RA) return [];
  if (family !== AF_INET && family !== AF_INET6) return [];
  const refuses = RTN_REFUSING.includes(type);
  if (route.multipath) {
    ignored.push(`route ${routeText(route)}: the guest does not get routes of several next hops`);
    return [];
  }
  const device = names.get(route.index);
  if (type !== RTN_UNICAST && !refuses) return [];
  if (!refuses && device === undefined) return [];
  return [
    {
      family,
      ...(route.destination === undefined ? {} : { destination: ipBytes(route.destination) }),
      prefix: route.prefix,
      ...(route.gateway === undefined ? {} : { gateway: ipBytes(route.gateway) }),
      ...(route.source === undefined ? {} : { source: ipBytes(route.source) }),
      ...(refuses || device === undefined ? {} : { device }),
      table,
      protocol,
      scope: route.scope,
      type,
      priority: route.priority,
      flags: route.flags & RTNH_F_ONLINK,
      mtu: route.mtu,
    },
  ];
}

function routeText({ destination, prefix }: NetnsRoute): string {
  return destination === undefined ? 'default' : `${destination}/${prefix}`;
}

/** Only those that somebody entered: the others are learnt again. */
function guestNeighbours(
  { neighbours }: NetnsInventory,
  names: ReadonlyMap<number, string>,
): INetworkNeighbour[] {
  return neighbours.flatMap(({ index, address, mac, state, flags }) => {
    const device = names.get(index);
    if (device === undefined || (state & NUD_PERMANENT) === 0 || (flags & NTF_PROXY) !== 0) return [];
    return [{ device, address: ipBytes(address), mac: macBytes(mac), state: NUD_PERMANENT, flags }];
  });
}
