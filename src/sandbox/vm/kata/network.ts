/** A pod's network as Kata's agent takes it: text for addresses, one call for each interface. Pure. */
import type { bulkhead as own } from '../../../gen/bulkhead.js';
import type { bulkhead } from '../../../gen/kata.js';

type INetworkSetup = own.agent.v1.INetworkSetup;
type INetworkRoute = own.agent.v1.INetworkRoute;
type IInterface = bulkhead.kata.v1.IInterface;
type IRoute = bulkhead.kata.v1.IRoute;
type IArpNeighbor = bulkhead.kata.v1.IArpNeighbor;
type Bytes = Uint8Array | null | undefined;

const [V4, V6] = [0, 1];
const AF_INET6 = 10;
const RTN_UNICAST = 1;
const RT_TABLE_MAIN = 254;

export interface KataNetwork {
  interfaces: IInterface[];
  routes: IRoute[];
  neighbors: IArpNeighbor[];
  /** What the guest will lack, as sentences. */
  ignored: string[];
}

/** @param pciPaths where the guest finds each card, by its hardware address: the agent waits there for it */
export function kataNetwork(setup: INetworkSetup, pciPaths: ReadonlyMap<string, string>): KataNetwork {
  const ignored: string[] = [];
  const interfaces = (setup.interfaces ?? []).map((each): IInterface => {
    const mac = macText(each.mac);
    const name = each.name ?? '';
    if (each.down === true) ignored.push(`interface ${name}: Kata's agent brings every interface up`);
    return {
      device: name,
      name,
      addresses: (each.addresses ?? []).map(({ address, prefix }) => ipAddress(address, prefix ?? 0)),
      mtu: each.mtu ?? 0,
      mac,
      pciPath: pciPaths.get(mac) ?? '',
    };
  });
  return {
    interfaces,
    routes: (setup.routes ?? []).flatMap((route) => kataRoute(route, ignored)),
    neighbors: (setup.neighbours ?? []).map(({ device, address, mac, state, flags }) => ({
      address: ipAddress(address, 0),
      device: device ?? '',
      mac: macText(mac),
      state: state ?? 0,
      flags: flags ?? 0,
    })),
    ignored,
  };
}

/** The agent knows ordinary routes of the main table, without a metric. */
function kataRoute(route: INetworkRoute, ignored: string[]): IRoute[] {
  const { type = RTN_UNICAST, table = RT_TABLE_MAIN, priority, prefix } = route;
  const isDefault = (route.destination?.length ?? 0) === 0;
  const dest = isDefault ? '' : `${ipText(route.destination)}/${prefix ?? 0}`;
  const why =
    type !== RTN_UNICAST || (route.device ?? '') === ''
      ? 'it refuses what it is for'
      : table !== RT_TABLE_MAIN && table !== 0
        ? `it is in table ${table}`
        : undefined;
  if (why !== undefined) {
    ignored.push(`route ${dest || 'default'}: Kata's agent does not take it, because ${why}`);
    return [];
  }
  if ((priority ?? 0) !== 0) ignored.push(`route ${dest || 'default'}: Kata's agent sets no metric`);
  return [
    {
      dest,
      gateway: ipText(route.gateway),
      device: route.device ?? '',
      source: ipText(route.source),
      scope: route.scope ?? 0,
      family: route.family === AF_INET6 ? V6 : V4,
      flags: route.flags ?? 0,
      mtu: route.mtu ?? 0,
    },
  ];
}

function ipAddress(bytes: Bytes, prefix: number): bulkhead.kata.v1.IIpAddress {
  return {
    family: (bytes?.length ?? 0) === 16 ? V6 : V4,
    address: ipText(bytes),
    mask: prefix === 0 ? '' : String(prefix),
  };
}

/** Network order to text; '' for none. IPv6 is written out in full (RFC 4291, 2.2, form 1). */
export function ipText(bytes: Bytes): string {
  if (bytes === null || bytes === undefined || bytes.length === 0) return '';
  if (bytes.length === 4) return bytes.join('.');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: 8 }, (_, index) => view.getUint16(2 * index).toString(16)).join(':');
}

export function macText(bytes: Bytes): string {
  return [...(bytes ?? [])].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
