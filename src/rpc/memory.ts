import type { Transport } from './transport.ts';

class MemoryTransport implements Transport {
  peer: MemoryTransport | undefined;
  #data: ((chunk: Uint8Array) => void) | undefined;
  #close: ((error?: Error) => void) | undefined;
  readonly #waiting: Uint8Array[] = [];
  #closed = false;
  #scheduled = false;

  send(bytes: Uint8Array): void {
    if (!this.#closed) this.peer?.deliver(Uint8Array.from(bytes));
  }
  onData(callback: (chunk: Uint8Array) => void): void {
    this.#data = callback;
    this.#schedule();
  }
  onClose(callback: (error?: Error) => void): void {
    this.#close = callback;
    if (this.#closed) this.#schedule();
  }
  close(): void {
    this.shut();
    this.peer?.shut();
  }
  deliver(chunk: Uint8Array): void {
    this.#waiting.push(chunk);
    this.#schedule();
  }
  shut(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#schedule();
  }
  /** As a socket does: what arrived before the end is read before the end is seen, and never within send. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (this.#data !== undefined) for (const chunk of this.#waiting.splice(0)) this.#data(chunk);
      if (!this.#closed || this.#close === undefined) return;
      const callback = this.#close;
      this.#close = undefined;
      callback();
    });
  }
}

/** Two ends of one connection within the process, for tests. Bytes are copied, order is kept. */
export function memoryTransports(): [Transport, Transport] {
  const [left, right] = [new MemoryTransport(), new MemoryTransport()];
  left.peer = right;
  right.peer = left;
  return [left, right];
}
