/** JSON over HTTP/1.1 on a unix socket: how Firecracker and Cloud Hypervisor are told what to do. */
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';

export interface HttpApiOptions {
  /** For messages: the machine's id, and whose API it is. */
  id: string;
  who: string;
  socketPath: string;
  /** Before every path: "/api/v1". */
  base?: string;
  /** Milliseconds that a request gets; default 30 s. */
  deadlineMs?: number;
  /** The reason in the body of a refusal. */
  reasonIn: (body: string) => string;
}

const DEFAULT_DEADLINE_MS = 30_000;
/** Configurations come back whole; nothing we ask for is near this. */
const MAX_BODY = 1 << 20;
const RETRY_MS = 5;
const MAX_REASON = 500;
/** What a refusal's status says; any other: the state of things is in the way. */
const CODES: Readonly<Record<number, ErrorCode>> = {
  404: ErrorCode.NotFound,
  409: ErrorCode.AlreadyExists,
  429: ErrorCode.ResourceExhausted,
};

export type Method = 'GET' | 'PUT' | 'PATCH';

export class HttpApi {
  readonly #options: HttpApiOptions;

  constructor(options: HttpApiOptions) {
    this.#options = options;
  }

  /** Resolves when somebody listens; for servers that make their socket themselves. Rejects with Unavailable. */
  async whenReady(): Promise<void> {
    const { deadlineMs = DEFAULT_DEADLINE_MS } = this.#options;
    const deadline = Date.now() + deadlineMs;
    for (;;) {
      try {
        await this.#send('GET', '/', undefined, deadlineMs);
        return;
      } catch (error) {
        const { code } = (error as { cause?: NodeJS.ErrnoException }).cause ?? {};
        const early = code === 'ENOENT' || code === 'ECONNREFUSED';
        if (!early || Date.now() >= deadline) throw error;
      }
      await sleep(RETRY_MS);
    }
  }

  /**
   * The answer's body, parsed; undefined when there is none. Rejects with FailedPrecondition when it is refused (or what
   * the status says more exactly), Unavailable when nobody answers, DeadlineExceeded.
   */
  async call<T = unknown>(method: Method, path: string, body?: object): Promise<T | undefined> {
    const { deadlineMs = DEFAULT_DEADLINE_MS, base = '', reasonIn } = this.#options;
    const { status, text } = await this.#send(method, base + path, body, deadlineMs);
    if (status >= 300) {
      const reason = reasonIn(text).trim().slice(0, MAX_REASON);
      throw this.#error(
        CODES[status] ?? ErrorCode.FailedPrecondition,
        path,
        reason === '' ? `status ${status}` : reason,
      );
    }
    if (text.trim() === '') return undefined;
    try {
      return JSON.parse(text) as T;
    } catch (cause) {
      throw this.#error(ErrorCode.Internal, path, 'answered with what is not JSON', cause);
    }
  }

  #send(
    method: Method,
    path: string,
    body: object | undefined,
    deadlineMs: number,
  ): Promise<{ status: number; text: string }> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const fail = (code: ErrorCode, reason: string, cause?: unknown): void => {
        call.destroy();
        reject(this.#error(code, path, reason, cause));
      };
      const call = request({
        socketPath: this.#options.socketPath,
        method,
        path,
        agent: false,
        headers: {
          accept: 'application/json',
          ...(payload === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
        },
      });
      const timer = setTimeout(
        () => fail(ErrorCode.DeadlineExceeded, `no answer within ${deadlineMs} ms`),
        deadlineMs,
      );
      call.on('close', () => clearTimeout(timer));
      call.on('error', (error) => fail(ErrorCode.Unavailable, error.message, error));
      call.on('response', (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => {
          text += chunk.toString();
          if (text.length > MAX_BODY) fail(ErrorCode.Internal, 'answered with more than 1 MiB');
        });
        response.on('error', (error) => fail(ErrorCode.Unavailable, error.message, error));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      });
      call.end(payload);
    });
  }

  #error(code: ErrorCode, path: string, reason: string, cause?: unknown): RuntimeError {
    const { id, who } = this.#options;
    return new RuntimeError({ code, op: 'vm', id, object: `${who} ${path}`, reason, cause });
  }
}
