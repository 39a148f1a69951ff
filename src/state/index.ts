/** What the runtime keeps on disk about its containers. */
export { checkExecId, checkId, checkNamespace, StatePaths } from './paths.ts';
export { currentSchema, type ContainerRecord, type ProcessRecord } from './schema.ts';
export { StateStore, type Flock } from './store.ts';
