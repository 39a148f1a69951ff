/**
 * Kubernetes' way in: a client of containerd's CRI plugin, as the kubelet is one.
 *
 *   const cri = new CriClient(containerd.address);
 *   const config = podConfig('web', { logDirectory });
 *   const { podSandboxId } = await cri.runPodSandbox({ config, runtimeHandler: 'test' });
 *   const { containerId } = await cri.createContainer({ podSandboxId, config: containerConfig('app', image, ['sleep', 'inf']), sandboxConfig: config });
 *   await cri.startContainer({ containerId });
 *   await cri.execText(containerId, ['hostname']);      // { stdout, stderr, exitCode }
 *   await cri.removePod(podSandboxId);                  // stops and removes its containers, then the pod
 *   cri.close();
 */
import * as grpc from '@grpc/grpc-js';
import { runtime } from '../../gen/cri.js';

const api = runtime.v1;

interface Message<Properties, Shape> {
  encode(message: Properties): { finish(): Uint8Array };
  decode(bytes: Uint8Array): Shape;
}

/** A call of the kubelet that takes longer than this has hung. */
const DEADLINE_MS = 240_000;

/** Error of a call: `code` is grpc.status. */
export type CriError = grpc.ServiceError;

export class CriClient {
  readonly #client: grpc.Client;

  /** `address`: path of containerd's gRPC socket. */
  constructor(address: string) {
    this.#client = new grpc.Client(`unix:${address}`, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.max_receive_message_length': 16 << 20,
    });
  }

  readonly version = this.#runtime('Version', api.VersionRequest, api.VersionResponse);
  readonly status = this.#runtime('Status', api.StatusRequest, api.StatusResponse);
  readonly runPodSandbox = this.#runtime(
    'RunPodSandbox',
    api.RunPodSandboxRequest,
    api.RunPodSandboxResponse,
  );
  readonly stopPodSandbox = this.#runtime(
    'StopPodSandbox',
    api.StopPodSandboxRequest,
    api.StopPodSandboxResponse,
  );
  readonly removePodSandbox = this.#runtime(
    'RemovePodSandbox',
    api.RemovePodSandboxRequest,
    api.RemovePodSandboxResponse,
  );
  readonly podSandboxStatus = this.#runtime(
    'PodSandboxStatus',
    api.PodSandboxStatusRequest,
    api.PodSandboxStatusResponse,
  );
  readonly listPodSandbox = this.#runtime(
    'ListPodSandbox',
    api.ListPodSandboxRequest,
    api.ListPodSandboxResponse,
  );
  readonly createContainer = this.#runtime(
    'CreateContainer',
    api.CreateContainerRequest,
    api.CreateContainerResponse,
  );
  readonly startContainer = this.#runtime(
    'StartContainer',
    api.StartContainerRequest,
    api.StartContainerResponse,
  );
  readonly stopContainer = this.#runtime(
    'StopContainer',
    api.StopContainerRequest,
    api.StopContainerResponse,
  );
  readonly removeContainer = this.#runtime(
    'RemoveContainer',
    api.RemoveContainerRequest,
    api.RemoveContainerResponse,
  );
  readonly listContainers = this.#runtime(
    'ListContainers',
    api.ListContainersRequest,
    api.ListContainersResponse,
  );
  readonly containerStatus = this.#runtime(
    'ContainerStatus',
    api.ContainerStatusRequest,
    api.ContainerStatusResponse,
  );
  readonly updateContainerResources = this.#runtime(
    'UpdateContainerResources',
    api.UpdateContainerResourcesRequest,
    api.UpdateContainerResourcesResponse,
  );
  readonly execSync = this.#runtime('ExecSync', api.ExecSyncRequest, api.ExecSyncResponse);
  /** Gives the URL at which the streams are to be had (SPDY or WebSocket). */
  readonly exec = this.#runtime('Exec', api.ExecRequest, api.ExecResponse);
  readonly attach = this.#runtime('Attach', api.AttachRequest, api.AttachResponse);
  readonly containerStats = this.#runtime(
    'ContainerStats',
    api.ContainerStatsRequest,
    api.ContainerStatsResponse,
  );
  readonly listImages = this.#method(
    'runtime.v1.ImageService',
    'ListImages',
    api.ListImagesRequest,
    api.ListImagesResponse,
  );
  readonly imageStatus = this.#method(
    'runtime.v1.ImageService',
    'ImageStatus',
    api.ImageStatusRequest,
    api.ImageStatusResponse,
  );

  /** ExecSync with its output as text. */
  async execText(
    containerId: string,
    cmd: string[],
    timeout = 120,
  ): Promise<{ stdout: string; stderr: string; exitCode: number }> {
    const { stdout, stderr, exitCode } = await this.execSync({ containerId, cmd, timeout });
    const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
    return { stdout: text(stdout), stderr: text(stderr), exitCode };
  }

  /** Stops and removes a pod's containers and the pod, as the kubelet does. */
  async removePod(podSandboxId: string): Promise<void> {
    const { containers } = await this.listContainers({ filter: { podSandboxId } });
    for (const { id } of containers) {
      await this.stopContainer({ containerId: id ?? '', timeout: 0 });
      await this.removeContainer({ containerId: id ?? '' });
    }
    await this.stopPodSandbox({ podSandboxId });
    await this.removePodSandbox({ podSandboxId });
  }

  close(): void {
    this.#client.close();
  }

  #runtime<RequestType, Q, ResponseType, R>(
    name: string,
    request: Message<RequestType, Q>,
    response: Message<R, ResponseType>,
  ): (message: RequestType) => Promise<ResponseType> {
    return this.#method('runtime.v1.RuntimeService', name, request, response);
  }

  #method<RequestType, Q, ResponseType, R>(
    service: string,
    name: string,
    request: Message<RequestType, Q>,
    response: Message<R, ResponseType>,
  ): (message: RequestType) => Promise<ResponseType> {
    const encode = (message: RequestType): Buffer => Buffer.from(request.encode(message).finish());
    const decode = (bytes: Buffer): ResponseType => response.decode(bytes);
    return (message) =>
      new Promise((resolve, reject) => {
        const deadline = Date.now() + DEADLINE_MS;
        const options = { deadline, waitForReady: true };
        this.#client.makeUnaryRequest(
          `/${service}/${name}`,
          encode,
          decode,
          message,
          options,
          (error, answer) => {
            if (error !== null) reject(error);
            else resolve(answer!);
          },
        );
      });
  }
}

/** A pod that shares its network and IPC namespaces; `name` is unique among those of the test. */
export function podConfig(
  name: string,
  more: runtime.v1.PodSandboxConfig.$Properties = {},
): runtime.v1.PodSandboxConfig.$Properties {
  return {
    metadata: { name, uid: `uid-${name}`, namespace: 'default', attempt: 0 },
    hostname: name,
    labels: { app: name },
    linux: {},
    ...more,
  };
}

/** A container that runs `command`, with its log at `NAME.log` below the pod's log directory. */
export function containerConfig(
  name: string,
  image: string,
  command: string[],
  more: runtime.v1.ContainerConfig.$Properties = {},
): runtime.v1.ContainerConfig.$Properties {
  return {
    metadata: { name, attempt: 0 },
    image: { image },
    command,
    logPath: `${name}.log`,
    linux: {},
    ...more,
  };
}

export const ContainerState = api.ContainerState;
export const PodSandboxState = api.PodSandboxState;
