/**
 * Requests for devices in annotations (SPEC.md, "CDI annotations"): `cdi.k8s.io/PLUGIN_ID: "vendor/class=a,vendor/class=b"`.
 */
import { CdiError } from './error.ts';
import { parseQualifiedName } from './names.ts';

export const ANNOTATION_PREFIX = 'cdi.k8s.io/';

/** Longest name of a Kubernetes annotation behind its prefix. */
const MAX_NAME = 63;

/** The key for one allocation of a device plugin. CdiError when the two parts do not make an annotation's name. */
export function annotationKey(plugin: string, deviceId: string): string {
  if (plugin === '') throw new CdiError('annotation', 'plugin name is empty');
  if (deviceId === '') throw new CdiError('annotation', 'device id is empty');
  const name = `${plugin}_${deviceId.replaceAll('/', '_')}`;
  const object = `annotation ${JSON.stringify(name)}`;
  if (name.length > MAX_NAME) throw new CdiError(object, `longer than ${MAX_NAME} characters`);
  if (!/^[A-Za-z0-9]/.test(name)) throw new CdiError(object, 'must start with a letter or digit');
  if (!/^[A-Za-z0-9_.-]+$/.test(name)) {
    throw new CdiError(object, 'may hold letters, digits and _ - . only');
  }
  if (!/[A-Za-z0-9]$/.test(name)) throw new CdiError(object, 'must end with a letter or digit');
  return ANNOTATION_PREFIX + name;
}

/** The value that asks for these devices. CdiError for the first that is no qualified name. */
export function annotationValue(devices: readonly string[]): string {
  for (const device of devices) checkName('annotation', device);
  return devices.join(',');
}

/** Adds a request to a copy of the annotations. CdiError when the key is taken. */
export function updateAnnotations(
  annotations: Readonly<Record<string, string>>,
  plugin: string,
  deviceId: string,
  devices: readonly string[],
): Record<string, string> {
  const key = annotationKey(plugin, deviceId);
  if (Object.hasOwn(annotations, key)) throw new CdiError(`annotation ${key}`, 'is in use');
  return { ...annotations, [key]: annotationValue(devices) };
}

/**
 * The devices that annotations ask for, in the order of their keys, each once. One bad name refuses them all: half a
 * request is a container without its device.
 */
export function parseAnnotations(annotations: Readonly<Record<string, string>>): {
  keys: string[];
  devices: string[];
} {
  const keys = Object.keys(annotations)
    .filter((key) => key.startsWith(ANNOTATION_PREFIX))
    .sort();
  const devices = new Set<string>();
  for (const key of keys) {
    for (const device of (annotations[key] ?? '').split(',')) {
      checkName(`annotation ${key}`, device);
      devices.add(device);
    }
  }
  return { keys, devices: [...devices] };
}

function checkName(object: string, device: string): void {
  const parsed = parseQualifiedName(device);
  if (typeof parsed === 'string') throw new CdiError(object, parsed);
}
