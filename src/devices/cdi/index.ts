/** The Container Device Interface, version 1.1.0 (github.com/cncf-tags/container-device-interface, SPEC.md). */
export {
  ANNOTATION_PREFIX,
  annotationKey,
  annotationValue,
  parseAnnotations,
  updateAnnotations,
} from './annotations.ts';
export { applyEdits, completeNodes, mergeEdits, type HostNode, type NodeLookup } from './edits.ts';
export { CdiError } from './error.ts';
export { isQualifiedName, parseQualifiedName, qualifiedName, type QualifiedName } from './names.ts';
export { checkCdiSpec, parseCdiSpec } from './parse.ts';
export {
  CdiRegistry,
  defaultSpecDirs,
  kindsOf,
  readRegistry,
  type FoundDevice,
  type SpecFile,
} from './registry.ts';
export type * from './types.ts';
export { CDI_VERSION, minimumVersion } from './version.ts';
