/** Task events to containerd: one ordered publisher for every containerd and namespace, shared by its pods. */
import type { bulkhead } from '../gen/bulkhead.js';
import { containerd } from '../gen/containerd.js';
import type { TaskEventMessages, TaskEvents } from '../task/events.ts';

type IHello = bulkhead.executor.v1.IHello;

/** What sends: src/events' EventPublisher. */
export interface Publisher {
  publish(topic: string, typeName: string, message: () => Uint8Array): void;
  flush(): Promise<void>;
}

interface Kind<M> {
  topic: string;
  type: string;
  encode(message: M): { finish(): Uint8Array };
}

const e = containerd.events;
const kinds: { [K in keyof TaskEventMessages]: Kind<TaskEventMessages[K]> } = {
  create: {
    topic: '/tasks/create',
    type: 'containerd.events.TaskCreate',
    encode: (m) => e.TaskCreate.encode(m),
  },
  start: { topic: '/tasks/start', type: 'containerd.events.TaskStart', encode: (m) => e.TaskStart.encode(m) },
  exit: { topic: '/tasks/exit', type: 'containerd.events.TaskExit', encode: (m) => e.TaskExit.encode(m) },
  delete: {
    topic: '/tasks/delete',
    type: 'containerd.events.TaskDelete',
    encode: (m) => e.TaskDelete.encode(m),
  },
  oom: { topic: '/tasks/oom', type: 'containerd.events.TaskOOM', encode: (m) => e.TaskOOM.encode(m) },
  'exec-added': {
    topic: '/tasks/exec-added',
    type: 'containerd.events.TaskExecAdded',
    encode: (m) => e.TaskExecAdded.encode(m),
  },
  'exec-started': {
    topic: '/tasks/exec-started',
    type: 'containerd.events.TaskExecStarted',
    encode: (m) => e.TaskExecStarted.encode(m),
  },
  paused: {
    topic: '/tasks/paused',
    type: 'containerd.events.TaskPaused',
    encode: (m) => e.TaskPaused.encode(m),
  },
  resumed: {
    topic: '/tasks/resumed',
    type: 'containerd.events.TaskResumed',
    encode: (m) => e.TaskResumed.encode(m),
  },
};

/** The sink for a monitor: its containerd's event address and its namespace. */
export function eventSinks(
  open: (address: string, namespace: string) => Publisher,
): (hello: IHello) => TaskEvents {
  const publishers = new Map<string, Publisher>();
  return (hello) => {
    const address = hello.ttrpcAddress ?? '';
    const namespace = hello.namespace ?? '';
    const key = `${address} ${namespace}`;
    let publisher = publishers.get(key);
    if (publisher === undefined) publishers.set(key, (publisher = open(address, namespace)));
    const to = publisher;
    return {
      publish: (name, message) => {
        const kind = kinds[name] as Kind<unknown>;
        to.publish(kind.topic, kind.type, () => kind.encode(message).finish());
      },
      flush: () => to.flush(),
    };
  };
}
