/**
 * The vm wall: a pod in a virtual machine of its own. Containers are launched by the guest's agent, through the same
 * executor protocol and by the same plans as on the host.
 *
 *   create: config.json → guest's configuration (refusals first) → machine of the pod, made for its first container →
 *   files attached to the share → hooks of the host → plan → journal → launched in the guest up to the gate
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { Any } from '../../metrics/index.ts';
import type { LinuxResources, LinuxSeccomp, Spec } from '../../oci/types.ts';
import type { SeccompProgram } from '../../plan/inputs.ts';
import type { ContainerRecord } from '../../state/index.ts';
import { specOf } from '../../state/spec.ts';
import type { Backend, CreateInput, ExecInput } from '../backend.ts';
import type { Executor, HeldState, LaunchResult } from '../executor.ts';
import type { BackendHost } from '../host_backend.ts';
import { isVfioNode, withoutVfioNodes } from '../../devices/vfio/request.ts';
import { ownerOf, type DevicePassing } from '../passing.ts';
import { passedFunctions, tooLate, withGuestFunctions, withGuestVariables } from './functions.ts';
import type { PassedFunction } from './hypervisor/hypervisor.ts';
import { sandboxPaths, shareDirectory, type SandboxPaths } from './layout.ts';
import { podNamespace } from './network.ts';
import type { GuestContainer, GuestProcess } from './pod_agent.ts';
import { loadSandbox, type SandboxContainer } from './record.ts';
import { endByCgroup, VmSandbox } from './sandbox.ts';
import type { SandboxDeps } from './sandbox_deps.ts';
import { cpuLimit, memoryLimit } from './sizing.ts';
import { guestProcess, guestSpec, hostHooks, type GuestSpec } from './spec.ts';
import { recalledProcesses } from './recall.ts';
import { isAlone, noShare, rootVolume, type RootDevice } from './roots.ts';
import { volumePath, type Volume } from './storage.ts';
import { checkMemory } from './memory_checks.ts';
import { imagesFor, knownImages, sizeOf, type ImageAddon, type Images } from './images.ts';
import { withGuestNodes, type WantedNode } from './nodes.ts';

export interface VmHost {
  /** Directory of all machines of this instance. */
  top: string;
  sandbox: SandboxDeps;
  images: ImageAddon;
  /** What a root file system in an image is to the guest. */
  rootDevice: RootDevice;
}

export class VmBackend implements Backend {
  readonly wall = 'vm';
  readonly #host: BackendHost;
  readonly #vm: VmHost;
  readonly #passing: DevicePassing | undefined;
  readonly #sandboxes = new Map<string, VmSandbox>();

  constructor(host: BackendHost, vm: VmHost, passing?: DevicePassing) {
    this.#host = host;
    this.#vm = vm;
    this.#passing = passing;
  }

  async create(record: ContainerRecord, input: CreateInput): Promise<void> {
    const id = record.id ?? '';
    const { executor } = input;
    const spec = withoutVfioNodes(input.spec);
    const sandbox = await this.#expecting(record, executor);
    // What cannot be had is refused before anything is made.
    const images = imagesFor(this.#vm.images, spec.annotations);
    const { shares, volumes, nodes } = this.#adapt(record, spec, sandbox, 0, images);
    const root = rootVolume(id, input, record.rootfs ?? '', images, this.#vm.rootDevice);
    const all = [...(root === undefined ? [] : [root]), ...volumes, ...nodes.map(({ volume }) => volume)];
    const asked = (input.functions ?? []).length > 0 || (input.spec.linux?.devices ?? []).some(isVfioNode);
    checkMemory(id, all, {
      emulated: all.some(({ needsFlush }) => needsFlush) && (await this.#vm.sandbox.emulated()),
      functions: asked || sandbox.functions.length > 0,
    });
    podNamespace(id, spec);
    const share = root === undefined || shares.length > 0 || !isAlone(record, spec);
    if (share && sandbox.first !== undefined && !sandbox.hasShare) throw noShare(id);
    record.privatePidNamespace = true;
    record.spec = Buffer.from(JSON.stringify({ ...spec, hooks: hostHooks(spec.hooks) }));
    input.journal(record);
    const functions = await this.#open(record, input, sandbox);
    const own = await sandbox.join(id, spec, { share, functions });
    const adapted = this.#adapt(record, spec, sandbox, own.serial ?? 0, images);
    const shared = sandbox.hasShare
      ? await this.#share(record, input, sandbox, own, adapted, root === undefined)
      : new Map<string, string>();
    const attached = await this.#attach(id, sandbox, own, root, adapted);
    for (const [given, path] of shared) attached.targets.set(given, path);
    if (adapted.shm !== undefined) await sandbox.agent.mountShm(id, sizeOf(adapted.shm));
    await input.runCreateHooks(sandbox.pid);
    await sandbox.connectNetwork();
    const withNodes = withGuestNodes(attachedSpec(adapted, attached), attached.nodes);
    const inGuest = withGuestFunctions(withNodes, sandbox.functions, {
      named: input.functions ?? [],
      nodes: (input.spec.linux?.devices ?? []).filter(isVfioNode),
    });
    await this.#launch(record, input, sandbox, own, inGuest, attached.root);
  }

  /** Functions of the host that the container asks for, by address or by their nodes, bound and ready for its machine. */
  async #open(record: ContainerRecord, input: CreateInput, sandbox: VmSandbox): Promise<PassedFunction[]> {
    const id = record.id ?? '';
    const nodes = (input.spec.linux?.devices ?? []).filter(isVfioNode);
    const asked = input.functions ?? [];
    const passing = this.#passing;
    if (passing === undefined || (nodes.length === 0 && asked.length === 0)) return [];
    const addresses = [...new Set([...asked, ...(await passing.functionsOf(id, nodes))])];
    if (addresses.length === 0) return [];
    if (sandbox.isMade) {
      // Device plugins name to a container what the pod's first one has brought.
      const there = new Set(sandbox.functions.map(({ host }) => host));
      if (addresses.every((address) => there.has(address))) return [];
      throw tooLate(id, addresses);
    }
    const physicalBits = await this.#vm.sandbox.physicalBits();
    const owner = ownerOf(record);
    const { annotations } = input.spec;
    const request = { id, owner, wall: 'vm' as const, addresses, annotations, physicalBits };
    return passedFunctions(await passing.open(request));
  }

  #share(
    record: ContainerRecord,
    input: CreateInput,
    sandbox: VmSandbox,
    own: SandboxContainer,
    { shares }: GuestSpec,
    withRoot: boolean,
  ): Promise<Map<string, string>> {
    return sandbox.files.attach(own, {
      bundle: record.bundle ?? '',
      spec: input.spec,
      rootfs: withRoot ? (record.rootfs ?? '') : undefined,
      rootfsMounts: input.rootfsMounts,
      shares,
      host: this.#host.facts(),
    });
  }

  /** Plugs what the container mounts from images of the host; what is noted is taken away with the container. */
  async #attach(
    id: string,
    sandbox: VmSandbox,
    own: SandboxContainer,
    root: Volume | undefined,
    { volumes, nodes }: GuestSpec,
  ): Promise<Attached> {
    const note = (device: string): void => {
      own.devices = [...new Set([...(own.devices ?? []), device])];
      sandbox.save();
    };
    const attached: Attached = { root: undefined, targets: new Map(), nodes: [] };
    for (const volume of root === undefined ? volumes : [root, ...volumes]) {
      const path = volumePath(await sandbox.agent.volumes.attach(id, volume, note));
      attached.targets.set(volume.target, path);
      if (volume === root) attached.root = path;
    }
    for (const wanted of nodes) {
      const found = await sandbox.agent.volumes.attachNode?.(id, wanted.volume, note);
      if (found === undefined) throw noNodes(id, wanted);
      attached.nodes.push({ wanted, found });
    }
    return attached;
  }

  async #launch(
    record: ContainerRecord,
    input: CreateInput,
    sandbox: VmSandbox,
    own: SandboxContainer,
    spec: Spec,
    root: string | undefined,
  ): Promise<void> {
    const id = record.id ?? '';
    const { stdio, options } = input;
    const { pid } = await sandbox.agent.launch({
      id,
      spec,
      root: root ?? `${sandbox.agent.places.share}/${shareDirectory(own.serial ?? 0)}/rootfs`,
      seccomp: () => this.#seccomp(id, spec),
      options,
      stdio,
    });
    own.guestPid = pid;
    record.guestPid = pid;
    if (record.init) record.init.pid = sandbox.pid;
    sandbox.save();
  }

  /** Docker 26 and later configure the network between create and start. */
  async beforeStart(record: ContainerRecord, executor: Executor): Promise<void> {
    const sandbox = this.#sandbox(record, executor);
    if (sandbox.isRunning) await sandbox.connectNetwork();
  }

  async exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult> {
    const id = record.id ?? '';
    const spec = specOf(record);
    const sandbox = this.#sandbox(record, input.executor);
    const adapted = this.#adapt(record, spec, sandbox, sandbox.container(id)?.serial ?? 0);
    return sandbox.agent.exec({
      id,
      execId: input.execId,
      process: withGuestVariables(guestProcess(input.process), sandbox.functions),
      spec: adapted.spec,
      pid: record.guestPid ?? 0,
      seccomp: () => this.#seccomp(id, spec),
      options: input.options,
      stdio: input.stdio,
      gated: input.gated === true,
    });
  }

  /** A process in a pod's guest, outside of its containers. */
  runInGuest(
    pod: { namespace: string; group: string },
    executor: Executor,
    process: GuestProcess,
  ): Promise<LaunchResult> {
    return this.#sandbox(pod, executor).run(process);
  }

  async recall(record: ContainerRecord, executor: Executor): Promise<HeldState[]> {
    const sandbox = this.#sandbox(record, executor);
    if (sandbox.agent.recall === undefined || !sandbox.isRunning) return [];
    return sandbox.agent.recall(recalledProcesses(record));
  }

  pause(record: ContainerRecord, executor: Executor): Promise<void> {
    return this.#guest(record, executor).freeze();
  }

  resume(record: ContainerRecord, executor: Executor): Promise<void> {
    return this.#guest(record, executor).thaw();
  }

  /** A larger machine first: a limit that it does not have would be none. */
  async update(record: ContainerRecord, resources: LinuxResources, executor: Executor): Promise<void> {
    const id = record.id ?? '';
    const { growth } = this.#sandbox(record, executor);
    const [bytes, cpus] = [memoryLimit(resources), cpuLimit(resources)];
    if (cpus !== undefined) await growth.cpus(id, cpus);
    if (bytes !== undefined) await growth.memory(id, bytes);
    return this.#guest(record, executor).update(resources);
  }

  stats(record: ContainerRecord, executor: Executor): Promise<Any> {
    return this.#guest(record, executor).stats(this.#host.layout().mode);
  }

  pids(record: ContainerRecord, executor: Executor): Promise<number[]> {
    return this.#guest(record, executor).pids();
  }

  async killAll(record: ContainerRecord, executor?: Executor): Promise<void> {
    if (executor === undefined) return this.#endLost(record);
    const sandbox = this.#sandbox(record, executor);
    if (!sandbox.isRunning) return;
    await this.#guest(record, executor)
      .kill()
      .catch((error: unknown) => {
        if (!(error instanceof RuntimeError && error.code === ErrorCode.DeadlineExceeded)) throw error;
        sandbox.giveUp('its agent does not answer');
      });
  }

  watchOom(record: ContainerRecord, onOom: () => void, executor: Executor): () => void {
    return this.#guest(record, executor).watchOom(onOom);
  }

  async destroy(record: ContainerRecord, executor?: Executor): Promise<void> {
    const key = keyOf(record);
    if (executor === undefined) return this.#endLost(record);
    const id = record.id ?? '';
    const sandbox = this.#sandbox(record, executor);
    const own = sandbox.container(id);
    if (own !== undefined && sandbox.isRunning) await this.#detach(id, sandbox, own);
    if (await sandbox.leave(id)) this.#forget(key, sandbox);
    else if (own !== undefined && sandbox.isRunning)
      await sandbox.files.detach(own).catch((error: unknown) => this.#warn(id, error));
    await this.#passing?.release(ownerOf(record));
  }

  /** A machine that ends with this container gets its devices back by ending. */
  async #detach(id: string, sandbox: VmSandbox, own: SandboxContainer): Promise<void> {
    const isUsed = (device: string): boolean =>
      (sandbox.record.containers ?? []).some((each) => each !== own && each.devices?.includes(device));
    const devices = own.devices ?? [];
    // A guest that does not answer any more must not keep its container from being deleted.
    await (
      sandbox.isLast(id)
        ? sandbox.agent.volumes.flush(id, devices)
        : sandbox.agent.volumes.detach(id, devices, isUsed)
    ).catch((error: unknown) => this.#warn(id, error));
  }

  #warn(id: string, error: unknown): void {
    this.#host.warn(id, error instanceof Error ? error.message : String(error));
  }

  /** The monitor is gone, and its end of the channel with it: whatever is left of the machine ends. */
  async #endLost(record: ContainerRecord): Promise<void> {
    const paths = this.#paths(record);
    this.#sandboxes.delete(keyOf(record));
    const sandbox = loadSandbox(paths.record);
    if (sandbox !== undefined) await endByCgroup(paths, sandbox, this.#vm.sandbox);
    this.#passing?.releaseLater(ownerOf(record));
  }

  #guest(record: ContainerRecord, executor: Executor): GuestContainer {
    return this.#sandbox(record, executor).agent.container(record.id ?? '');
  }

  /** @param images absent: the container is there, and what its mounts came from may be gone by now */
  #adapt(
    record: ContainerRecord,
    spec: Spec,
    sandbox: VmSandbox,
    serial: number,
    images: Images = knownImages,
  ): GuestSpec {
    const { first } = sandbox;
    return guestSpec({
      id: record.id ?? '',
      spec,
      bundle: record.bundle ?? '',
      serial,
      sandbox:
        first === undefined || first.id === record.id
          ? undefined
          : { hostPid: sandbox.pid, guestPid: first.guestPid ?? 0 },
      places: sandbox.agent.places,
      ...images,
    });
  }

  /** The pod's machine, which waits for the container; one that is ending has to end before there is another. */
  async #expecting(record: ContainerRecord, executor: Executor): Promise<VmSandbox> {
    for (;;) {
      const sandbox = this.#sandbox(record, executor);
      if (sandbox.expect(record.id ?? '')) return sandbox;
      await sandbox.end();
      this.#forget(keyOf(record), sandbox);
    }
  }

  /** Unless another one has taken its place. */
  #forget(key: string, sandbox: VmSandbox): void {
    if (this.#sandboxes.get(key) === sandbox) this.#sandboxes.delete(key);
  }

  #sandbox(record: Pick<ContainerRecord, 'namespace' | 'group'>, executor: Executor): VmSandbox {
    const key = keyOf(record);
    const known = this.#sandboxes.get(key);
    if (known !== undefined && known.executor === executor) return known;
    const names = { namespace: record.namespace ?? '', group: record.group ?? '' };
    const sandbox = VmSandbox.open(this.#vm.sandbox, this.#paths(record), names, executor);
    this.#sandboxes.set(key, sandbox);
    return sandbox;
  }

  #paths(record: Pick<ContainerRecord, 'namespace' | 'group'>): SandboxPaths {
    return sandboxPaths(this.#vm.top, record.namespace ?? '', record.group ?? '');
  }

  #seccomp(id: string, spec: Spec): SeccompProgram | undefined {
    const profile: LinuxSeccomp | undefined = spec.linux?.seccomp;
    if (profile === undefined) return undefined;
    const { program, flags, warnings } = this.#host.compileSeccomp(profile);
    for (const warning of warnings) this.#host.warn(id, warning);
    return { program, flags };
  }
}

/** Where the guest has what a container mounts from images. */
interface Attached {
  root: string | undefined;
  /** Paths of the guest, by those that guestSpec() gave; another container may have attached it by another name. */
  targets: Map<string, string>;
  nodes: { wanted: WantedNode; found: bulkhead.agent.v1.IDevice }[];
}

function attachedSpec({ spec }: GuestSpec, { targets }: Attached): Spec {
  const mounts = (spec.mounts ?? []).map((mount) => {
    const source = targets.get(mount.source ?? '');
    return source === undefined ? mount : { ...mount, source };
  });
  return { ...spec, mounts };
}

function noNodes(id: string, { node }: WantedNode): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: `device ${node.path}`,
    reason: 'the agent of this guest gives containers no devices of the host',
    remedy: "use Bulkhead's own guest",
  });
}

function keyOf(record: Pick<ContainerRecord, 'namespace' | 'group'>): string {
  return `${record.namespace ?? ''}/${record.group ?? ''}`;
}
