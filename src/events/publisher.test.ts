import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { createLogger, silentLogger } from '../base/log.ts';
import { containerd } from '../gen/containerd.js';
import { type EventConnection, EventPublisher, type EventPublisherOptions } from './publisher.ts';

const { ForwardRequest } = containerd.services.events.ttrpc.v1;

const error = (code: ErrorCode): RuntimeError =>
  new RuntimeError({ code, op: 'forward', reason: 'scripted' });

/** containerd, by a script: each call takes the next entry; an error code fails it, 'lost' breaks the connection. */
class FakeContainerd {
  readonly topics: string[] = [];
  readonly namespaces: string[] = [];
  readonly naps: number[] = [];
  readonly envelopes: containerd.types.IEnvelope[] = [];
  connections = 0;
  inFlight = 0;
  mostInFlight = 0;
  script: (ErrorCode | 'lost' | 'refuse connection')[] = [];

  options(extra: Partial<EventPublisherOptions> = {}): EventPublisherOptions {
    return {
      address: '/run/containerd/containerd.sock.ttrpc',
      namespace: 'default',
      log: silentLogger,
      connect: () => this.connect(),
      sleep: async (ms) => void this.naps.push(ms),
      ...extra,
    };
  }

  async connect(): Promise<EventConnection> {
    this.connections++;
    if (this.script[0] === 'refuse connection') {
      this.script.shift();
      throw error(ErrorCode.Unavailable);
    }
    const connection = {
      open: true,
      close: () => (connection.open = false),
      call: async (
        service: string,
        method: string,
        payload: Uint8Array,
        options: { metadata: Record<string, string> },
      ) => {
        expect([service, method]).toEqual(['containerd.services.events.ttrpc.v1.Events', 'Forward']);
        this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
        await new Promise((resolve) => setImmediate(resolve));
        this.inFlight--;
        const step = this.script.shift();
        if (step === 'lost') {
          connection.open = false;
          throw error(ErrorCode.Unavailable);
        }
        if (typeof step === 'number') throw error(step);
        const { envelope } = ForwardRequest.decode(payload);
        this.envelopes.push(envelope!);
        this.topics.push(envelope!.topic!);
        this.namespaces.push(options.metadata['containerd-namespace-ttrpc']!);
      },
    };
    return connection;
  }
}

const bytes = (id: string): Uint8Array => containerd.events.TaskOOM.encode({ containerId: id }).finish();

describe('EventPublisher', () => {
  it('sends events in order, one at a time, over one connection', async () => {
    const fake = new FakeContainerd();
    const publisher = new EventPublisher(fake.options({ namespace: 'k8s.io' }));
    const topics = Array.from({ length: 50 }, (_, index) => `/tasks/${index}`);
    for (const topic of topics) publisher.publish(topic, 'containerd.events.TaskOOM', () => bytes('web'));
    expect(publisher.pending).toBe(50);
    await publisher.flush();
    expect(fake.topics).toEqual(topics);
    expect(fake).toMatchObject({ connections: 1, mostInFlight: 1 });
    expect(new Set(fake.namespaces)).toEqual(new Set(['k8s.io']));
    expect(publisher.pending).toBe(0);
  });

  it('fills the envelope', async () => {
    const fake = new FakeContainerd();
    const publisher = new EventPublisher(fake.options());
    const before = Date.now();
    publisher.publish('/tasks/oom', 'containerd.events.TaskOOM', () => bytes('web'));
    await publisher.flush();
    const [{ namespace, topic, event, timestamp } = {}] = fake.envelopes;
    expect({ namespace, topic, type: event?.typeUrl }).toEqual({
      namespace: 'default',
      topic: '/tasks/oom',
      type: 'containerd.events.TaskOOM',
    });
    expect(containerd.events.TaskOOM.decode(event!.value!).containerId).toBe('web');
    const at = timestamp!.seconds! * 1000 + timestamp!.nanos! / 1e6;
    expect(at).toBeGreaterThanOrEqual(before);
    expect(at).toBeLessThanOrEqual(Date.now());
  });

  it('reconnects at once after a lost connection, and keeps the order', async () => {
    const fake = new FakeContainerd();
    fake.script = ['lost'];
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/start', 't', () => bytes('a'));
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake).toMatchObject({ topics: ['/tasks/start', '/tasks/exit'], connections: 2, naps: [] });
  });

  it('waits for a containerd that is away, for as long as it takes', async () => {
    const fake = new FakeContainerd();
    fake.script = Array.from({ length: 9 }, () => 'refuse connection' as const);
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake.topics).toEqual(['/tasks/exit']);
    expect(fake.naps).toEqual([2000, 3000, 4000, 5000, 5000, 5000, 5000, 5000]);
  });

  it('tries a refused event five times, then goes on with the next', async () => {
    const fake = new FakeContainerd();
    fake.script = Array.from({ length: 5 }, () => ErrorCode.Unknown);
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/start', 't', () => bytes('a'));
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake).toMatchObject({ topics: ['/tasks/exit'], naps: [1000, 2000, 3000, 4000] });
  });

  it('does not try again what cannot succeed', async () => {
    const fake = new FakeContainerd();
    fake.script = [ErrorCode.InvalidArgument];
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/start', 't', () => bytes('a'));
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake).toMatchObject({ topics: ['/tasks/exit'], naps: [] });
  });

  it('makes a new connection after one that did not answer', async () => {
    const fake = new FakeContainerd();
    fake.script = [ErrorCode.DeadlineExceeded];
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake).toMatchObject({ topics: ['/tasks/exit'], connections: 2, naps: [1000] });
  });

  it('holds 2048 events and loses the oldest, not the one in flight', async () => {
    const fake = new FakeContainerd();
    const lines: string[] = [];
    const publisher = new EventPublisher(fake.options({ log: createLogger((line) => lines.push(line)) }));
    for (let index = 0; index < 2050; index++) publisher.publish(`/tasks/${index}`, 't', () => bytes('a'));
    expect(publisher.pending).toBe(2048);
    await publisher.flush();
    expect(fake.topics.length).toBe(2048);
    expect(fake.topics.slice(0, 2)).toEqual(['/tasks/0', '/tasks/3']);
    expect(fake.topics.at(-1)).toBe('/tasks/2049');
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain('level=warning msg="event dropped" topic=/tasks/1');
  });

  it('drops events when there is no address, and says so once', async () => {
    const fake = new FakeContainerd();
    const lines: string[] = [];
    const publisher = new EventPublisher(
      fake.options({ address: '', log: createLogger((line) => lines.push(line)) }),
    );
    publisher.publish('/tasks/start', 't', () => bytes('a'));
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    await publisher.flush();
    expect(fake.connections).toBe(0);
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain('reason="no ttrpc address"');
  });

  it('delivers what is queued before it closes', async () => {
    const fake = new FakeContainerd();
    const publisher = new EventPublisher(fake.options());
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    publisher.publish('/tasks/delete', 't', () => bytes('a'));
    await publisher.close();
    publisher.publish('/tasks/late', 't', () => bytes('a'));
    expect(fake.topics).toEqual(['/tasks/exit', '/tasks/delete']);
    expect(publisher.pending).toBe(0);
  });

  it('closes in bounded time when containerd is away', async () => {
    const fake = new FakeContainerd();
    fake.script = Array.from({ length: 100 }, () => 'refuse connection' as const);
    const { sleep: _sleep, ...options } = fake.options();
    const publisher = new EventPublisher(options);
    publisher.publish('/tasks/exit', 't', () => bytes('a'));
    const before = Date.now();
    await publisher.close(50);
    expect(Date.now() - before).toBeLessThan(30_000);
    expect(fake.topics).toEqual([]);
    expect(publisher.pending).toBe(0);
  });
});
