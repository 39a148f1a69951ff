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

/** The last is where the multi-process service has its pipes. */
const sockets = ['/run/nvidia-persistenced/socket', '/run/nvidia-fabricmanager/socket', '/tmp/nvidia-mps'];

/** Where loaders of graphics and computing interfaces look for drivers: by name, in one of these directories. */
const descriptions: readonly (readonly [directories: readonly string[], names: readonly string[]])[] = [
  [['/usr/share/glvnd/egl_vendor.d', '/etc/glvnd/egl_vendor.d'], ['10_nvidia.json']],
  [
    ['/usr/share/vulkan/icd.d', '/etc/vulkan/icd.d'],
    ['nvidia_icd.json', 'nvidia_icd.x86_64.json', 'nvidia_icd.aarch64.json'],
  ],
  [['/usr/share/vulkan/implicit_layer.d', '/etc/vulkan/implicit_layer.d'], ['nvidia_layers.json']],
  [
    ['/usr/share/egl/egl_external_platform.d', '/etc/egl/egl_external_platform.d'],
    ['10_nvidia_wayland.json', '15_nvidia_gbm.json', '20_nvidia_xcb.json', '20_nvidia_xlib.json'],
  ],
  [['/etc/OpenCL/vendors'], ['nvidia.icd']],
  [
    ['/usr/share/X11/xorg.conf.d', '/etc/X11/xorg.conf.d'],
    ['10-nvidia.conf', 'nvidia-drm-outputclass.conf'],
  ],
  [['/usr/share/nvidia'], ['nvoptix.bin']],
];

/** EGL's platforms have versions of their own: "libnvidia-egl-gbm.so.1.1.2". */
const PLATFORM_LIBRARY = /^libnvidia-egl-\w+\.so\.\d+(?:\.\d+)+$/;

/** Below a directory of libraries, or /usr/lib where that is Debian's. */
const xDrivers = (version: string): string[] => [
  'xorg/modules/drivers/nvidia_drv.so',
  `xorg/modules/extensions/libglxserver_nvidia.so.${version}`,
];

export interface NvidiaFiles {
  /** "/usr/lib/x86_64-linux-gnu/libcuda.so.570.86.15". */
  libraries: string[];
  /** Links beside them under which the dynamic loader looks: sonames, and the bare ".so". */
  links: { path: string; library: string }[];
  programs: string[];
  firmware: string[];
  /** Files of JSON and the like by which loaders find the libraries, X's modules, OptiX's data. */
  others: string[];
  sockets: string[];
}

/** Libraries are those whose name ends in ".so." and the loaded version: any other would be refused by the driver. */
export function nvidiaFiles(host: HostTree, version: string): NvidiaFiles {
  const libraries = libraryDirs.flatMap((dir) =>
    host
      .entries(dir)
      .filter((name) => name.endsWith(`.so.${version}`) || PLATFORM_LIBRARY.test(name))
      .filter((name) => host.link(`${dir}/${name}`) === undefined)
      .map((name) => `${dir}/${name}`),
  );
  const firmware = `/lib/firmware/nvidia/${version}`;
  return {
    libraries,
    links: libraries.flatMap((library) => [...linksTo(host, library), ...gbmBackend(host, library)]),
    programs: programs.filter((path) => host.exists(path)),
    firmware: host
      .entries(firmware)
      .filter((name) => /^gsp.*\.bin$/.test(name))
      .map((name) => `${firmware}/${name}`),
    others: [
      ...descriptions.flatMap(([dirs, names]) =>
        dirs.flatMap((dir) => names.map((name) => `${dir}/${name}`)),
      ),
      ...libraryDirs.flatMap((dir) => xDrivers(version).map((name) => `${dir}/${name}`)),
    ].filter((path) => host.exists(path)),
    sockets: sockets.filter((path) => host.exists(path)),
  };
}

/** Mesa's libgbm loads drivers by this name. */
function gbmBackend(host: HostTree, library: string): { path: string; library: string }[] {
  const [, dir = ''] = /^(.*)\/libnvidia-allocator\.so\.[^/]+$/.exec(library) ?? [];
  const path = `${dir}/gbm/nvidia-drm_gbm.so`;
  return dir !== '' && host.link(path) !== undefined ? [{ path, library }] : [];
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
