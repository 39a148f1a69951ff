/** Versions of CDI specs: which there are, and which one a spec's contents need (SPEC.md, "Released versions"). */
import { parseKind } from './names.ts';
import type { CdiSpec, ContainerEdits } from './types.ts';

/** Oldest first. */
export const knownVersions = [
  '0.1.0',
  '0.2.0',
  '0.3.0',
  '0.4.0',
  '0.5.0',
  '0.6.0',
  '0.7.0',
  '0.8.0',
  '1.0.0',
  '1.1.0',
] as const;

export const CDI_VERSION = '1.1.0';

/** Nothing older is in use: the reference library asks this of an otherwise empty spec. */
const EARLIEST = '0.3.0';

interface Feature {
  since: (typeof knownVersions)[number];
  used: (spec: CdiSpec, edits: readonly ContainerEdits[]) => boolean;
}

const features: readonly Feature[] = [
  {
    since: '1.1.0',
    used: (_, edits) =>
      edits.some(
        ({ netDevices, intelRdt }) =>
          (netDevices ?? []).length > 0 ||
          (intelRdt?.schemata ?? []).length > 0 ||
          intelRdt?.enableMonitoring === true,
      ),
  },
  {
    since: '0.7.0',
    used: (_, edits) =>
      edits.some(
        ({ intelRdt, additionalGids }) => intelRdt !== undefined || (additionalGids ?? []).length > 0,
      ),
  },
  {
    since: '0.6.0',
    used: (spec) =>
      hasAny(spec.annotations) ||
      spec.devices.some(({ annotations }) => hasAny(annotations)) ||
      classOf(spec.kind).includes('.'),
  },
  {
    since: '0.5.0',
    used: (spec, edits) =>
      spec.devices.some(({ name }) => /^[^A-Za-z]/.test(name)) ||
      edits.some(({ deviceNodes }) =>
        (deviceNodes ?? []).some(({ hostPath }) => hostPath !== undefined && hostPath !== ''),
      ),
  },
  {
    since: '0.4.0',
    used: (_, edits) =>
      edits.some(({ mounts }) => (mounts ?? []).some(({ type }) => type !== undefined && type !== '')),
  },
];

/** The oldest version in which everything that the spec uses exists. */
export function minimumVersion(spec: CdiSpec): string {
  const edits = [spec.containerEdits ?? {}, ...spec.devices.map(({ containerEdits }) => containerEdits)];
  return features.find(({ used }) => used(spec, edits))?.since ?? EARLIEST;
}

/** Why a spec's cdiVersion does not fit what is in it; undefined when it does. A leading "v" is allowed. */
export function versionFault(spec: CdiSpec): string | undefined {
  const given = versionIndex(spec.cdiVersion.replace(/^v/, ''));
  if (given < 0) return `invalid version ${JSON.stringify(spec.cdiVersion)}`;
  const minimum = minimumVersion(spec);
  return versionIndex(minimum) > given ? `the spec version must be at least v${minimum}` : undefined;
}

function versionIndex(version: string): number {
  return (knownVersions as readonly string[]).indexOf(version);
}

function hasAny(annotations: Record<string, string> | undefined): boolean {
  return Object.keys(annotations ?? {}).length > 0;
}

function classOf(kind: string): string {
  const parsed = parseKind(kind);
  return typeof parsed === 'string' ? '' : parsed.class;
}
