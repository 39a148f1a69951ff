/** Shapes of a CDI spec. Unlike config.json a spec is strict: a field that nobody knows makes the file invalid. */
import {
  bool,
  integer,
  list,
  map,
  nonEmptyPath,
  object,
  path,
  ShapeError,
  text,
  uint32,
  type Shape,
} from '../../oci/validate/shape.ts';

function strict(fields: Record<string, Shape>, required: readonly string[] = []): Shape {
  const known = object(fields, required);
  return (value, at) => {
    known(value, at);
    for (const name of Object.keys(value as object)) {
      if (!Object.hasOwn(fields, name))
        throw new ShapeError(at === '' ? name : `${at}.${name}`, 'unknown field');
    }
  };
}

function oneOf(...allowed: string[]): Shape {
  return (value, at) => {
    if (typeof value !== 'string' || !allowed.includes(value)) {
      throw new ShapeError(at, `must be one of ${allowed.map((one) => JSON.stringify(one)).join(', ')}`);
    }
  };
}

const word = text({ max: 4096 });
const nonEmpty = text({ max: 4096, nonEmpty: true });

const variable: Shape = (value, at) => {
  text()(value, at);
  if ((value as string).indexOf('=') <= 0) throw new ShapeError(at, 'must be of the form NAME=value');
};

const permissions: Shape = (value, at) => {
  word(value, at);
  if (value !== 'none' && !/^[rwm]*$/.test(value as string)) {
    throw new ShapeError(at, 'must be made of r, w and m, or be "none"');
  }
};

/** A file name for the class of service, or "/" for the root class. */
const closId: Shape = (value, at) => {
  text()(value, at);
  const name = value as string;
  if (name === '/') return;
  if (name.length >= 4096 || name === '.' || name === '..' || /[/\n]/.test(name)) {
    throw new ShapeError(at, 'must be a file name or "/"');
  }
};

/** dev_t has 12 bits of major and 20 of minor (linux/kdev_t.h); -1 would be a wildcard in a cgroup rule. */
const deviceNode = strict(
  {
    path: nonEmptyPath,
    hostPath: path,
    type: oneOf('', 'b', 'c', 'u', 'p'),
    major: integer(0, 0xfff),
    minor: integer(0, 0xfffff),
    fileMode: uint32,
    permissions,
    uid: uint32,
    gid: uint32,
  },
  ['path'],
);

const netDevice = strict({ hostInterfaceName: nonEmpty, name: nonEmpty }, ['hostInterfaceName', 'name']);

const netDevices: Shape = (value, at) => {
  list(netDevice, 1024)(value, at);
  for (const field of ['hostInterfaceName', 'name'] as const) {
    const seen = new Set<string>();
    for (const device of value as { hostInterfaceName: string; name: string }[]) {
      if (seen.has(device[field])) {
        throw new ShapeError(at, `${field} ${JSON.stringify(device[field])} is given twice`);
      }
      seen.add(device[field]);
    }
  }
};

const hook = strict(
  {
    hookName: oneOf(
      'prestart',
      'createRuntime',
      'createContainer',
      'startContainer',
      'poststart',
      'poststop',
    ),
    path: nonEmptyPath,
    args: list(text()),
    env: list(variable),
    timeout: integer(0, 0x7fffffff),
  },
  ['hookName', 'path'],
);

const mount = strict(
  { hostPath: nonEmptyPath, containerPath: nonEmptyPath, options: list(word, 1024), type: word },
  ['hostPath', 'containerPath'],
);

const intelRdt = strict({
  closID: closId,
  l3CacheSchema: text(),
  memBwSchema: text(),
  schemata: list(text(), 1024),
  enableMonitoring: bool,
});

/** Shape of containerEdits, alone: merged edits are checked once more before they are applied. */
export const editsShape: Shape = strict({
  env: list(variable),
  deviceNodes: list(deviceNode, 16384),
  netDevices,
  hooks: list(hook, 1024),
  mounts: list(mount, 16384),
  intelRdt,
  additionalGids: list(uint32, 65536),
});

/** Kubernetes' limit on what all annotations of one object hold. */
const MAX_ANNOTATIONS = 256 * 1024;

/** A Kubernetes name, upper case too, with an optional DNS name and a slash before it. */
const annotationKey =
  /^(?:(?=.{1,253}\/)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/;

const annotations: Shape = (value, at) => {
  map(text({ max: MAX_ANNOTATIONS }))(value, at);
  let size = 0;
  for (const [key, entry] of Object.entries(value as Record<string, string>)) {
    if (!annotationKey.test(key)) throw new ShapeError(at, `${JSON.stringify(key)} is no annotation's name`);
    size += key.length + entry.length;
  }
  if (size > MAX_ANNOTATIONS) {
    throw new ShapeError(at, `hold ${size} characters, at most ${MAX_ANNOTATIONS} are possible`);
  }
};

const device = strict({ name: text({ max: 4096 }), annotations, containerEdits: editsShape }, [
  'name',
  'containerEdits',
]);

export const specShape: Shape = strict(
  {
    cdiVersion: word,
    kind: word,
    annotations,
    devices: list(device, 65536),
    containerEdits: editsShape,
  },
  ['cdiVersion', 'kind', 'devices'],
);
