/** A host tree in memory: a table of paths. Directories are implied. */
import { posix } from 'node:path';
import type { HostNode } from '../cdi/edits.ts';
import type { HostTree } from '../host_tree.ts';

/** Text; { link } is a symbolic link, { node } a device node as "c 195:0", of group gid if that is given, {} an empty directory. */
export type FakeEntry = string | { link: string } | { node: string; gid?: number } | Record<string, never>;
export type FakeFiles = Record<string, FakeEntry>;

export class FakeTree implements HostTree {
  readonly files: Map<string, FakeEntry>;

  constructor(files: FakeFiles = {}) {
    this.files = new Map(Object.entries(files));
  }

  text(path: string): string | undefined {
    const entry = this.files.get(path);
    return typeof entry === 'string' ? entry.trim() : undefined;
  }

  entries(path: string): string[] {
    const below = `${path}/`;
    const names = [...this.files.keys()]
      .filter((file) => file.startsWith(below))
      .map((file) => file.slice(below.length).split('/')[0] ?? '');
    return [...new Set(names)].sort();
  }

  link(path: string): string | undefined {
    const entry = this.files.get(path);
    return typeof entry === 'object' && 'link' in entry ? entry.link : undefined;
  }

  real(path: string): string | undefined {
    const target = this.link(path);
    if (target === undefined) return this.exists(path) ? path : undefined;
    return posix.resolve(posix.dirname(path), target);
  }

  node(path: string): HostNode | undefined {
    const entry = this.files.get(path);
    if (typeof entry !== 'object' || !('node' in entry)) return undefined;
    const [, type, major, minor] = /^([bc]) (\d+):(\d+)$/.exec(entry.node ?? '') ?? [];
    return {
      type: type as 'b' | 'c',
      major: Number(major),
      minor: Number(minor),
      mode: 0o666,
      gid: entry.gid ?? 0,
    };
  }

  exists(path: string): boolean {
    return this.files.has(path) || this.entries(path).length > 0;
  }
}
