/**
 * Answers that are left with the monitor: containerd asks `State` and `Connect` more often than anything changes, and an
 * answer that is known need not wake the engine (LeftAnswer of executor.proto).
 */
import { containerd } from '../gen/containerd.js';
import type { Container, ContainerProcess } from '../runtime/container.ts';
import { connectResponse, stateResponse } from './convert.ts';

const { ConnectRequest, ConnectResponse, StateRequest, StateResponse } = containerd.task.v3;
const nothing = new Uint8Array();

/** Leaves the answer to a request with the monitor; an empty one takes it back. */
export type LeaveAnswer = (method: 'State' | 'Connect', request: Uint8Array, response: Uint8Array) => void;

export class LeftAnswers {
  readonly #leave: LeaveAnswer;
  readonly #monitorPid: number;

  constructor(leave: LeaveAnswer, monitorPid: number) {
    this.#leave = leave;
    this.#monitorPid = monitorPid;
  }

  /** From now on the monitor answers for this process; called before the answer of what changed its state. */
  leaveState(container: Container, process: ContainerProcess): void {
    const response = StateResponse.encode(stateResponse(container, process)).finish();
    this.#leave('State', stateRequest(container, process), response);
  }

  takeStateBack(container: Container, process: ContainerProcess): void {
    this.#leave('State', stateRequest(container, process), nothing);
  }

  /** What Connect says stays the same until the container is deleted. */
  leaveConnect(container: Container): void {
    const response = ConnectResponse.encode(connectResponse(this.#monitorPid, container.init.pid)).finish();
    this.#leave('Connect', connectRequest(container), response);
  }

  takeConnectBack(container: Container): void {
    this.#leave('Connect', connectRequest(container), nothing);
  }
}

/** Byte for byte as containerd sends it: fields in order, empty ones left out. */
function stateRequest({ id }: Container, { execId }: ContainerProcess): Uint8Array {
  return StateRequest.encode(execId === '' ? { id } : { id, execId }).finish();
}

function connectRequest({ id }: Container): Uint8Array {
  return ConnectRequest.encode({ id }).finish();
}
