/**
 * An HTTP server on a unix socket that takes what a published API takes and nothing else: an unknown path, an unknown or
 * missing property, or a property of another type is refused with 400, as those servers do.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** A property's type; a list of words is an enumeration; "?" at the end of a name makes it optional. */
export interface Shape {
  [property: string]: 'string' | 'integer' | 'boolean' | readonly string[] | Shape | [Shape];
}

export interface Operation {
  /** Undefined: no body. */
  body?: Shape;
  status: number;
  answer?: unknown;
}

export interface ApiRequestSeen {
  operation: string;
  body: unknown;
}

export class ScriptedApi implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'bulkhead-api-'));
  readonly socketPath: string;
  readonly seen: ApiRequestSeen[] = [];
  /** By "PUT /path"; "{id}" stands for any segment. */
  readonly operations: Record<string, Operation>;
  /** What the next request of an operation gets instead; removed by it. */
  readonly instead = new Map<string, (response: ServerResponse) => void>();
  readonly #server: Server;
  readonly #refusal: (reason: string) => string;

  /** @param socket below its directory */
  constructor(
    operations: Record<string, Operation>,
    refusal: (reason: string) => string,
    socket = 'api.sock',
  ) {
    this.socketPath = join(this.dir, socket);
    mkdirSync(dirname(this.socketPath), { recursive: true });
    this.operations = operations;
    this.#refusal = refusal;
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(this.socketPath, resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.dir, { recursive: true, force: true });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const path = `${request.method} ${request.url}`;
    const name = Object.keys(this.operations).find((known) => matches(known, path));
    const body: unknown = text === '' ? undefined : JSON.parse(text);
    this.seen.push({ operation: path, body });
    const special = this.instead.get(path);
    this.instead.delete(path);
    if (special !== undefined) return special(response);
    const operation = name === undefined ? undefined : this.operations[name];
    const fault = operation === undefined ? `no such operation: ${path}` : faultIn(operation, body);
    if (fault !== undefined || operation === undefined) {
      response.writeHead(400).end(this.#refusal(fault ?? ''));
      return;
    }
    response
      .writeHead(operation.status)
      .end(operation.answer === undefined ? '' : JSON.stringify(operation.answer));
  }
}

function matches(known: string, path: string): boolean {
  const pattern = known.replace(/[.?+*()[\]\\]/g, '\\$&').replace(/\{\w+\}/g, '[^/]+');
  return new RegExp(`^${pattern}$`).test(path);
}

function faultIn({ body: shape }: Operation, body: unknown): string | undefined {
  if (shape === undefined) return body === undefined ? undefined : 'takes no body';
  return mismatch('body', shape, body);
}

function mismatch(at: string, shape: Shape, value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return `${at}: not an object`;
  const given = value as Record<string, unknown>;
  const properties = new Map(Object.entries(shape).map(([name, type]) => [name.replace(/\?$/, ''), type]));
  for (const name of Object.keys(given)) if (!properties.has(name)) return `${at}.${name}: unknown`;
  for (const [name, type] of Object.entries(shape)) {
    const key = name.replace(/\?$/, '');
    if (given[key] === undefined) {
      if (key === name) return `${at}.${key}: missing`;
      continue;
    }
    const fault = wrong(`${at}.${key}`, type, given[key]);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function wrong(at: string, type: Shape[string], value: unknown): string | undefined {
  if (type === 'integer') return Number.isSafeInteger(value) ? undefined : `${at}: not an integer`;
  if (typeof type === 'string') return typeof value === type ? undefined : `${at}: not a ${type}`;
  if (!isList(type)) return mismatch(at, type, value);
  const [first] = type;
  if (typeof first === 'string')
    return (type as readonly unknown[]).includes(value)
      ? undefined
      : `${at}: not one of ${JSON.stringify(type)}`;
  if (!Array.isArray(value)) return `${at}: not a list`;
  const faults = value.map((item, index) => mismatch(`${at}[${index}]`, first ?? {}, item));
  return faults.find((fault) => fault !== undefined);
}

function isList(type: Shape[string]): type is readonly string[] | [Shape] {
  return Array.isArray(type);
}
