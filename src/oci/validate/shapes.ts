/** Shapes of config.json, section by section as in the specification (config.md, config-linux.md, config-vm.md). */
import type { Shape } from './shape.ts';
import {
  bool,
  int32,
  int64,
  integer,
  list,
  longText,
  map,
  nonEmptyPath,
  object,
  path,
  text,
  uint16,
  uint32,
  uint64,
} from './shape.ts';

const word = text({ max: 255 });
const words = list(word, 4096);
const paths = list(path, 16384);
const strings = list(text());

const user = object({
  uid: uint32,
  gid: uint32,
  umask: uint32,
  additionalGids: list(uint32),
  username: word,
});

const capabilities = object({
  bounding: words,
  effective: words,
  inheritable: words,
  permitted: words,
  ambient: words,
});

const scheduler = object(
  {
    policy: word,
    nice: int32,
    priority: int32,
    flags: words,
    runtime: uint64,
    deadline: uint64,
    period: uint64,
  },
  ['policy'],
);

const processFields: Record<string, Shape> = {
  terminal: bool,
  consoleSize: object({ height: uint16, width: uint16 }),
  user,
  args: strings,
  env: strings,
  cwd: path,
  capabilities,
  rlimits: list(object({ type: word, hard: uint64, soft: uint64 }, ['type', 'hard', 'soft']), 64),
  noNewPrivileges: bool,
  apparmorProfile: text({ max: 4096 }),
  oomScoreAdj: integer(-1000, 1000),
  scheduler,
  selinuxLabel: text({ max: 4096 }),
  ioPriority: object({ class: word, priority: int32 }, ['class']),
  execCPUAffinity: object({ initial: text({ max: 4096 }), final: text({ max: 4096 }) }),
};

/** Shape of `process`, for config.json and for execs. */
export const processShape: Shape = object(processFields);

const idMapping = object({ containerID: uint32, hostID: uint32, size: uint32 }, [
  'containerID',
  'hostID',
  'size',
]);
/** The kernel takes at most 340 lines (user_namespaces(7)). */
const idMappings = list(idMapping, 340);

const mount = object(
  {
    destination: nonEmptyPath,
    type: word,
    source: path,
    options: list(text({ max: 65536 }), 1024),
    uidMappings: idMappings,
    gidMappings: idMappings,
  },
  ['destination'],
);

const hook = object({ path: nonEmptyPath, args: strings, env: strings, timeout: integer(1, 0x7fffffff) }, [
  'path',
]);
const hooks = list(hook, 1024);

const deviceNumber = integer(0, 0xffffffff);
const device = object(
  {
    path: nonEmptyPath,
    type: word,
    major: deviceNumber,
    minor: deviceNumber,
    fileMode: uint32,
    uid: uint32,
    gid: uint32,
  },
  ['path', 'type'],
);

const blockDevice = { major: int64, minor: int64 };
const weights = list(object({ ...blockDevice, weight: uint16, leafWeight: uint16 }, ['major', 'minor']));
const throttles = list(object({ ...blockDevice, rate: uint64 }, ['major', 'minor', 'rate']));

/** Shape of `linux.resources`, for config.json and for `update`. */
export const resourcesShape: Shape = object({
  devices: list(object({ allow: bool, type: word, major: int64, minor: int64, access: word })),
  memory: object({
    limit: int64,
    reservation: int64,
    swap: int64,
    kernel: int64,
    kernelTCP: int64,
    swappiness: uint64,
    disableOOMKiller: bool,
    useHierarchy: bool,
    checkBeforeUpdate: bool,
  }),
  cpu: object({
    shares: uint64,
    quota: int64,
    burst: uint64,
    period: uint64,
    realtimeRuntime: int64,
    realtimePeriod: uint64,
    cpus: text({ max: 4096 }),
    mems: text({ max: 4096 }),
    idle: int64,
  }),
  pids: object({ limit: int64 }),
  blockIO: object({
    weight: uint16,
    leafWeight: uint16,
    weightDevice: weights,
    throttleReadBpsDevice: throttles,
    throttleWriteBpsDevice: throttles,
    throttleReadIOPSDevice: throttles,
    throttleWriteIOPSDevice: throttles,
  }),
  hugepageLimits: list(object({ pageSize: word, limit: uint64 }, ['pageSize', 'limit']), 64),
  network: object({
    classID: uint32,
    priorities: list(object({ name: word, priority: uint32 }, ['name', 'priority'])),
  }),
  rdma: map(object({ hcaHandles: uint32, hcaObjects: uint32 })),
  unified: map(text()),
});

const seccompArgument = object({ index: uint32, value: uint64, valueTwo: uint64, op: word }, [
  'index',
  'value',
  'op',
]);
const seccomp = object({
  defaultAction: word,
  defaultErrnoRet: uint32,
  architectures: words,
  flags: words,
  listenerPath: path,
  listenerMetadata: longText,
  syscalls: list(
    object({ names: words, action: word, errnoRet: uint32, args: list(seccompArgument, 64) }, [
      'names',
      'action',
    ]),
    16384,
  ),
});

const linux = object({
  uidMappings: idMappings,
  gidMappings: idMappings,
  sysctl: map(text()),
  resources: resourcesShape,
  cgroupsPath: path,
  namespaces: list(object({ type: word, path }, ['type']), 64),
  devices: list(device, 16384),
  netDevices: map(object({ name: word })),
  seccomp,
  rootfsPropagation: word,
  maskedPaths: paths,
  readonlyPaths: paths,
  mountLabel: text({ max: 4096 }),
  intelRdt: object({
    closID: text({ max: 4096 }),
    schemata: strings,
    l3CacheSchema: text(),
    memBwSchema: text(),
    enableMonitoring: bool,
  }),
  memoryPolicy: object({ mode: word, nodes: text({ max: 4096 }), flags: words }, ['mode']),
  personality: object({ domain: word, flags: words }, ['domain']),
  timeOffsets: map(object({ secs: int64, nanosecs: uint32 })),
});

const vm = object({
  hypervisor: object({ path, parameters: strings }, ['path']),
  kernel: object({ path, parameters: strings, initrd: path }, ['path']),
  image: object({ path, format: word }, ['path', 'format']),
});

/** Shape of config.json. */
export const specShape: Shape = object(
  {
    ociVersion: word,
    process: processShape,
    root: object({ path: nonEmptyPath, readonly: bool }, ['path']),
    hostname: text({ max: 64 }),
    domainname: text({ max: 64 }),
    mounts: list(mount, 16384),
    hooks: object({
      prestart: hooks,
      createRuntime: hooks,
      createContainer: hooks,
      startContainer: hooks,
      poststart: hooks,
      poststop: hooks,
    }),
    annotations: map(longText),
    linux,
    vm,
  },
  ['ociVersion', 'process', 'root'],
);
