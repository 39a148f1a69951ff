/** What of the NVIDIA driver's user side a container gets: libraries of the loaded version, programs, firmware, sockets. */
import type { HostTree } from '../host_tree.ts';

const libraryDirs = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/lib/x86_64-linux-gnu/nvidia/current',
  '/usr/lib/aarch64-linux-gnu/nvidia/current',
  '/usr/lib/x86_64-linux-gnu/vdpau',
  '/usr/lib64/vdpau',
];

const programs = [
  'nvidia-smi',
  'nvidia-debugdump',
  'nvidia-persistenced',
  'nvidia-cuda-mps-control',
  'nvidia-cuda-mps-server',
  'nvidia-imex',
  'nvidia-imex-ctl',
].map((name) => `/usr/bin/${name}`);

const sockets = ['/run/nvidia-persistenced/socket', '/run/nvidia-fabricmanager/socket'];

export interface NvidiaFiles {
  /** "/usr/lib/x86_64-linux-gnu/libcuda.so.570.86.15". */
  libraries: string[];
  /** Links beside them under which the dynamic loader looks: sonames, and the bare ".so". */
  links: { path: string; library: string }[];
  programs: string[];
  firmware: string[];
  sockets: string[];
}

/** Libraries are those whose name ends in ".so." and the loaded version: any other would be refused by the driver. */
export function nvidiaFiles(host: HostTree, version: string): NvidiaFiles {
  const libraries = libraryDirs.flatMap((dir) =>
    host
      .entries(dir)
      .filter((name) => name.endsWith(`.so.${version}`) && host.link(`${dir}/${name}`) === undefined)
      .map((name) => `${dir}/${name}`),
  );
  const firmware = `/lib/firmware/nvidia/${version}`;
  return {
    libraries,
    links: libraries.flatMap((library) => linksTo(host, library)),
    programs: programs.filter((path) => host.exists(path)),
    firmware: host
      .entries(firmware)
      .filter((name) => /^gsp.*\.bin$/.test(name))
      .map((name) => `${firmware}/${name}`),
    sockets: sockets.filter((path) => host.exists(path)),
  };
}

/** Links follow each other: libcuda.so → libcuda.so.1 → libcuda.so.570.86.15. */
function linksTo(host: HostTree, library: string): { path: string; library: string }[] {
  const dir = library.slice(0, library.lastIndexOf('/'));
  const stem = library.slice(0, library.indexOf('.so.')) + '.so';
  const leadsThere = (path: string, hops: number): boolean => {
    const target = host.link(path);
    if (target === undefined || hops === 0) return path === library;
    return leadsThere(target.startsWith('/') ? target : `${dir}/${target}`, hops - 1);
  };
  return host
    .entries(dir)
    .map((name) => `${dir}/${name}`)
    .filter((path) => path !== library && path.startsWith(stem) && leadsThere(path, 4))
    .map((path) => ({ path, library }));
}
