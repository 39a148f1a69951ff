import type { Duplex } from 'node:stream';

/** An ordered, reliable way for bytes. Callbacks are set once, by whoever serves or calls over it. */
export interface Transport {
  send(bytes: Uint8Array): void;
  onData(callback: (chunk: Uint8Array) => void): void;
  /** Called once, with the error when there was one; at once when it is closed already. */
  onClose(callback: (error?: Error) => void): void;
  /** Sends what is queued, then closes. */
  close(): void;
  /** While the peer does not read: a promise for when it does again. Absent: send never blocks. */
  blocked?(): Promise<void> | undefined;
}

/**
 * A socket (or any byte stream) as a transport. What is sent within one turn of the event loop goes out in one
 * writev(2). While the peer does not take our answers its requests are not read, so that memory stays bounded.
 */
export function streamTransport(stream: Duplex): Transport {
  let corked = false;
  let failure: Error | undefined;
  let drained: Promise<void> | undefined;

  const uncork = (): void => {
    corked = false;
    stream.uncork();
    if (!stream.writableNeedDrain || drained !== undefined) return;
    stream.pause();
    drained = new Promise((resolve) => {
      const resume = (): void => {
        stream.off('drain', resume).off('close', resume);
        drained = undefined;
        stream.resume();
        resolve();
      };
      stream.on('drain', resume).on('close', resume);
    });
  };
  stream.on('error', (error) => (failure = error));

  return {
    send(bytes) {
      if (stream.destroyed || stream.writableEnded) return;
      if (!corked) {
        corked = true;
        stream.cork();
        process.nextTick(uncork);
      }
      stream.write(bytes);
    },
    onData: (callback) => void stream.on('data', callback),
    onClose(callback) {
      if (stream.closed) queueMicrotask(() => callback(failure));
      else stream.once('close', () => callback(failure));
    },
    close() {
      if (stream.destroyed) return;
      stream.end(() => stream.destroy());
    },
    blocked: () => drained,
  };
}
