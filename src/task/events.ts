/** The task events by their short names, each with its message; the engine binds them to a publisher. */
import type { containerd } from '../gen/containerd.js';

export interface TaskEventMessages {
  create: containerd.events.ITaskCreate;
  start: containerd.events.ITaskStart;
  exit: containerd.events.ITaskExit;
  delete: containerd.events.ITaskDelete;
  oom: containerd.events.ITaskOOM;
  'exec-added': containerd.events.ITaskExecAdded;
  'exec-started': containerd.events.ITaskExecStarted;
  paused: containerd.events.ITaskPaused;
  resumed: containerd.events.ITaskResumed;
}

export interface TaskEvents {
  /** Queues an event; events of one sink arrive in the order of the calls. Never throws. */
  publish<K extends keyof TaskEventMessages>(name: K, message: TaskEventMessages[K]): void;
  /** Resolves when everything published so far has arrived, or was given up. */
  flush(): Promise<void>;
}
