/**
 * The host as probes see it: files of /sys, /proc, /dev and of the root file system, under roots that can be replaced
 * (a fixture tree in tests, a copy of another machine's /sys in support). Absent is not an error: it is a fact.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import type { HostNode } from './cdi/edits.ts';
import { hostNode } from './host_node.ts';

export interface HostTree {
  /** Contents, without the white space around them; undefined when the file cannot be read. */
  text(path: string): string | undefined;
  /** Names in a directory, sorted; none when it is absent. */
  entries(path: string): string[];
  /** What a link says; undefined when it is none. */
  link(path: string): string | undefined;
  /** Where a path leads when all links are followed; undefined when it is absent. */
  real(path: string): string | undefined;
  node(path: string): HostNode | undefined;
  exists(path: string): boolean;
}

export interface HostRoots {
  sys: string;
  proc: string;
  dev: string;
  /** Everything else: libraries, firmware, sockets. "" is the host's own. */
  root: string;
}

export const hostRoots: HostRoots = { sys: '/sys', proc: '/proc', dev: '/dev', root: '' };

/** The tree under these roots; paths are always written as the host has them ("/sys/bus/pci"). */
export function hostTree(roots: HostRoots = hostRoots): HostTree {
  const at = (path: string): string => {
    const [, first = '', rest = ''] = /^\/(sys|proc|dev)(\/.*)?$/.exec(path) ?? [];
    if (first === 'sys' || first === 'proc' || first === 'dev') return roots[first] + rest;
    return roots.root === '' ? path : join(roots.root, path);
  };
  const quietly = <T>(read: () => T): T | undefined => {
    try {
      return read();
    } catch {
      return undefined;
    }
  };
  return {
    text: (path) => quietly(() => readFileSync(at(path), 'utf8').trim()),
    entries: (path) => quietly(() => readdirSync(at(path)).sort()) ?? [],
    link: (path) => quietly(() => readlinkSync(at(path))),
    real: (path) => quietly(() => realpathSync(at(path)).slice(roots.root.length)),
    node: (path) => hostNode(at(path)),
    exists: (path) => existsSync(at(path)),
  };
}

/** The last part of what a link says: sysfs names a driver, a group, a function by a link to it. */
export function linkName(host: HostTree, path: string): string {
  return host.link(path)?.split('/').at(-1) ?? '';
}
