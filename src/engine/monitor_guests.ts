/** The guests of a pod, as its monitor tells of them: calls to their agents, events, the end of a channel. */
import { errnoName, errnoText } from '../base/errno.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import { GuestError, type Guests } from '../sandbox/executor.ts';

type ToMonitor = bulkhead.executor.v1.IToMonitor;
type ToEngine = bulkhead.executor.v1.ToEngine;
type IGuestReply = bulkhead.executor.v1.IGuestReply;

const ECONNRESET = 104;

interface Pending {
  guest: string;
  connects: boolean;
  resolve: (bytes: Uint8Array) => void;
  reject: (error: Error) => void;
}

export class MonitorGuests implements Guests {
  readonly #send: (message: ToMonitor) => void;
  readonly #nextRequest: () => number;
  readonly #pending = new Map<number, Pending>();
  readonly #connected: Set<string>;
  readonly #eventListeners = new Set<(guest: string, event: Uint8Array) => void>();
  readonly #closedListeners = new Set<(guest: string, reason: string) => void>();

  /** @param connected guests whose channel a former engine had opened */
  constructor(
    send: (message: ToMonitor) => void,
    nextRequest: () => number,
    connected: readonly string[] = [],
  ) {
    this.#send = send;
    this.#nextRequest = nextRequest;
    this.#connected = new Set(connected);
  }

  connect(guest: string, socketPath: string, deadlineMs: number, diesWith = ''): Promise<Uint8Array> {
    return this.#request(guest, true, (request) => ({
      guestConnect: { request, guest, socketPath, deadlineMs, diesWith },
    }));
  }

  call(guest: string, call: Uint8Array, deadlineMs = 0): Promise<Uint8Array> {
    return this.#request(guest, false, (request) => ({ guestCall: { request, guest, call, deadlineMs } }));
  }

  isConnected(guest: string): boolean {
    return this.#connected.has(guest);
  }

  onEvent(listener: (guest: string, event: Uint8Array) => void): () => void {
    this.#eventListeners.add(listener);
    return () => this.#eventListeners.delete(listener);
  }

  onClosed(listener: (guest: string, reason: string) => void): () => void {
    this.#closedListeners.add(listener);
    return () => this.#closedListeners.delete(listener);
  }

  /** Takes a message of the monitor; false when it is not about guests. */
  handle({ guestReply, guestEvent, guestClosed }: ToEngine): boolean {
    if (guestReply) {
      this.#reply(guestReply);
    } else if (guestEvent) {
      const { guest, event } = guestEvent;
      for (const listener of this.#eventListeners) listener(guest ?? '', event ?? new Uint8Array());
    } else if (guestClosed) {
      const { guest, reason } = guestClosed;
      this.#connected.delete(guest ?? '');
      for (const listener of this.#closedListeners) listener(guest ?? '', reason ?? '');
    } else {
      return false;
    }
    return true;
  }

  /** The monitor is gone, and its channels with it. */
  close({ message }: Error): void {
    this.#connected.clear();
    const fields = { code: 'ECONNRESET', errno: ECONNRESET, what: 'monitor', reply: new Uint8Array() };
    const error = new GuestError(message, fields);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  #request(guest: string, connects: boolean, build: (request: number) => ToMonitor): Promise<Uint8Array> {
    const request = this.#nextRequest();
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { guest, connects, resolve, reject });
      this.#send(build(request));
    });
  }

  #reply({ request, errno, bytes, what }: IGuestReply): void {
    const pending = this.#pending.get(request ?? 0);
    this.#pending.delete(request ?? 0);
    if (pending === undefined) return;
    const reply = bytes ?? new Uint8Array();
    const number = errno ?? 0;
    if (number === 0) {
      if (pending.connects) this.#connected.add(pending.guest);
      pending.resolve(reply);
      return;
    }
    const fields = { code: errnoName(number), errno: number, what: what ?? '', reply };
    pending.reject(new GuestError(errnoText(number), fields));
  }
}
