/**
 * Calls to Kata's agent: its methods by name, each with its messages, a deadline, and one sentence when it fails.
 * How bytes travel is not known here: whoever wires the engine together hands over a ttrpc client.
 */
import type { Duplex } from 'node:stream';
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import { bulkhead } from '../../../gen/kata.js';

const kata = bulkhead.kata.v1;

/** A ttrpc connection, as src/rpc has it. */
export interface RpcConnection {
  /** False once it is gone. */
  readonly open: boolean;
  call(
    service: string,
    method: string,
    payload: Uint8Array,
    options?: { timeoutMs?: number | undefined },
  ): Promise<Uint8Array>;
  close(): void;
}
export type OpenRpc = (stream: Duplex) => RpcConnection;

interface Encoder<T> {
  encode(message: T): { finish(): Uint8Array };
}
interface Decoder<T> {
  decode(bytes: Uint8Array): T;
}
interface Method<Request, Response> {
  service: string;
  request: Encoder<Request>;
  response: Decoder<Response>;
  /** It takes as long as it takes: until output comes, a process ends, memory runs out. */
  waits: boolean;
}

const HEALTH = 'grpc.Health';
const AGENT = 'grpc.AgentService';
/** Kata's own runtime waits for 60 s, which containerd's clients do not. */
const DEADLINE_MS = 30_000;
/** Of what an agent says; its errors come with a stack. */
const MAX_WORDS = 300;

function method<Request, Response>(
  request: Encoder<Request>,
  response: Decoder<Response>,
  { service = AGENT, waits = false } = {},
): Method<Request, Response> {
  return { service, request, response, waits };
}

const { Done } = kata;
const waits = { waits: true };
const methods = {
  Check: method(kata.CheckRequest, kata.CheckResponse, { service: HEALTH }),
  Version: method(kata.CheckRequest, kata.VersionResponse, { service: HEALTH }),
  CreateSandbox: method(kata.CreateSandboxRequest, Done),
  DestroySandbox: method(kata.DestroySandboxRequest, Done),
  SetGuestDateTime: method(kata.SetGuestDateTimeRequest, Done),
  ReseedRandomDev: method(kata.ReseedRandomDevRequest, Done),
  OnlineCPUMem: method(kata.OnlineCPUMemRequest, Done),
  GetGuestDetails: method(kata.GetGuestDetailsRequest, kata.GuestDetails),
  GetOOMEvent: method(kata.GetOOMEventRequest, kata.OOMEvent, waits),
  CreateContainer: method(kata.CreateContainerRequest, Done),
  StartContainer: method(kata.StartContainerRequest, Done),
  RemoveContainer: method(kata.RemoveContainerRequest, Done),
  ExecProcess: method(kata.ExecProcessRequest, Done),
  SignalProcess: method(kata.SignalProcessRequest, Done),
  WaitProcess: method(kata.WaitProcessRequest, kata.WaitProcessResponse, waits),
  UpdateContainer: method(kata.UpdateContainerRequest, Done),
  StatsContainer: method(kata.StatsContainerRequest, kata.StatsContainerResponse),
  PauseContainer: method(kata.PauseContainerRequest, Done),
  ResumeContainer: method(kata.ResumeContainerRequest, Done),
  WriteStdin: method(kata.WriteStdinRequest, kata.WriteStdinResponse, waits),
  ReadStdout: method(kata.ReadStreamRequest, kata.ReadStreamResponse, waits),
  ReadStderr: method(kata.ReadStreamRequest, kata.ReadStreamResponse, waits),
  CloseStdin: method(kata.CloseStdinRequest, Done),
  TtyWinResize: method(kata.TtyWinResizeRequest, Done),
  UpdateInterface: method(kata.UpdateInterfaceRequest, kata.Interface),
  UpdateRoutes: method(kata.UpdateRoutesRequest, kata.Routes),
  ListInterfaces: method(kata.ListInterfacesRequest, kata.Interfaces),
  AddARPNeighbors: method(kata.AddARPNeighborsRequest, Done),
};

type Methods = typeof methods;
export type MethodName = keyof Methods;
export type RequestOf<N extends MethodName> =
  Methods[N] extends Method<infer Request, infer _Response> ? Request : never;
export type ResponseOf<N extends MethodName> =
  Methods[N] extends Method<infer _Request, infer Response> ? Response : never;

/** For whom a call is made: verb and id of the sentence that a failure becomes. */
export interface CallScope {
  op: string;
  id: string;
  /** Default: 30 s; none for the methods that wait. */
  deadlineMs?: number;
}

export class KataRpc {
  readonly #connection: RpcConnection;

  constructor(connection: RpcConnection) {
    this.#connection = connection;
  }

  get open(): boolean {
    return this.#connection.open;
  }

  /**
   * @throws RuntimeError with the agent's own words; DeadlineExceeded without an answer; Unavailable when the
   *   connection is gone; Internal when the answer is not one of this method
   */
  async call<N extends MethodName>(
    name: N,
    request: RequestOf<N>,
    { op, id, deadlineMs }: CallScope,
  ): Promise<ResponseOf<N>> {
    // The table's rows are of different types; RequestOf and ResponseOf say which this one is of.
    const row = methods[name] as unknown as Method<RequestOf<N>, ResponseOf<N>>;
    const timeoutMs = deadlineMs ?? (row.waits ? undefined : DEADLINE_MS);
    try {
      const payload = row.request.encode(request).finish();
      return row.response.decode(await this.#connection.call(row.service, name, payload, { timeoutMs }));
    } catch (error) {
      throw callError(name, { op, id }, error, timeoutMs);
    }
  }

  close(): void {
    this.#connection.close();
  }
}

function callError(
  name: MethodName,
  { op, id }: CallScope,
  error: unknown,
  timeoutMs: number | undefined,
): RuntimeError {
  const known = error instanceof RuntimeError ? error : undefined;
  const reason =
    known?.code === ErrorCode.DeadlineExceeded && timeoutMs !== undefined
      ? `no answer within ${timeoutMs / 1000} s`
      : agentWords(known === undefined ? `answer: ${(error as Error).message}` : known.reason);
  const code = known?.code ?? ErrorCode.Internal;
  return new RuntimeError({ code, op, id, object: `guest ${name}`, reason, cause: error });
}

/** An agent's error is anyhow's: a sentence, what caused it, each on a line of its own, and a stack. */
export function agentWords(text: string): string {
  const lines = text.split('\n').map((line) => line.trim());
  const stack = lines.findIndex((line) => /^stack backtrace:?$/i.test(line));
  const said = (stack < 0 ? lines : lines.slice(0, stack))
    .filter((line) => line !== '' && line !== 'Caused by:')
    .map((line) => line.replace(/^\d+: /, '').replace(/\.$/, ''))
    .join(': ')
    .replace(/[^\x20-\x7e]+/g, '?');
  if (said === '') return 'refused without a reason';
  return said.length > MAX_WORDS ? `${said.slice(0, MAX_WORDS)}…` : said;
}
