/** What the layers above say to the runtime about sandboxes, so that they need not know the sandbox layer. */
export type { CreateOptions, RootfsMount, Wall } from '../sandbox/backend.ts';
export type { Executor, ProcessExit, StdioPaths } from '../sandbox/executor.ts';
