import { spawn, type ChildProcess } from 'node:child_process';
import { eventually } from './exec.ts';

export interface ContainerdEvent {
  /** Such as /tasks/exit. */
  topic: string;
  /** Fields of the event, as containerd's JSON has them: container_id, exit_status, … */
  event: Record<string, unknown>;
}

interface Source {
  command(args: readonly string[]): { file: string; args: string[]; env: NodeJS.ProcessEnv };
  ctr(args: readonly string[]): Promise<unknown>;
  namespace: string;
}

/** `ctr events`, decoded line by line. */
export class EventStream {
  private readonly child: ChildProcess;
  private readonly namespace: string;
  private text = '';

  private constructor(child: ChildProcess, namespace: string) {
    this.child = child;
    this.namespace = namespace;
    child.stdout?.on('data', (chunk: Buffer) => {
      this.text += chunk.toString();
    });
  }

  /** Subscribes and proves it: returns only when an event caused here has been seen. */
  static async open(source: Source): Promise<EventStream> {
    const { file, args, env } = source.command(['events']);
    const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'ignore'] });
    const stream = new EventStream(child, source.namespace);
    let probe = 0;
    await eventually('ctr events to deliver', async () => {
      probe += 1;
      await source.ctr(['namespace', 'label', source.namespace, `probe=${probe}`]);
      return stream.text.includes('/namespaces/update');
    });
    return stream;
  }

  /** Every event of this namespace seen so far, in order; `id` keeps those of one container. */
  seen(id?: string): ContainerdEvent[] {
    return this.text
      .split('\n')
      .map((line) => /^\S+ \S+ \+\d+ \S+ (\S+) (\/\S+) (\{.*\})$/.exec(line))
      .filter((match) => match?.[1] === this.namespace)
      .map((match) => ({
        topic: match?.[2] ?? '',
        event: JSON.parse(match?.[3] ?? '{}') as Record<string, unknown>,
      }))
      .filter(({ event }) => id === undefined || event.container_id === id);
  }

  /** Topics of one container's events, in order. */
  topics(id: string): string[] {
    return this.seen(id).map(({ topic }) => topic);
  }

  /** Waits for the first event of `topic` for container `id`; exits of its execs do not count. */
  wait(topic: string, id: string): Promise<ContainerdEvent> {
    const own = ({ topic: name, event }: ContainerdEvent): boolean =>
      name === topic && (event.id === undefined || event.id === id);
    return eventually(`${topic} of ${id}`, () => this.seen(id).find(own)).catch((cause: unknown) => {
      const seen = this.seen(id).map((found) => `${found.topic} ${JSON.stringify(found.event)}`);
      throw new Error(`no ${topic} of ${id}; seen: ${seen.join('; ') || 'nothing'}`, { cause });
    });
  }

  close(): void {
    this.child.kill('SIGKILL');
  }
}
