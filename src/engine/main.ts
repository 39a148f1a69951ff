/**
 * bulkhead-engine: one per host and instance. Started by the first monitor with the listening socket as descriptor 3
 * (or by hand with --listen). Binds task service, transports and backends; keeps running whatever one pod does.
 */
import { fstatSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createLogger } from '../base/log.ts';
import { EventPublisher } from '../events/index.ts';
import { connectTtrpc } from '../rpc/index.ts';
import { Router } from '../rpc/router.ts';
import { BackendRegistry } from '../sandbox/registry.ts';
import { NamespaceBackend } from '../sandbox/namespace/backend.ts';
import { backendHost } from '../sandbox/host.ts';
import { deviceReader, hostPassing } from '../sandbox/passing_host.ts';
import { SentryBackend } from '../sandbox/sentry/backend.ts';
import { sentryHost } from '../sandbox/sentry/host.ts';
import { VmBackend } from '../sandbox/vm/backend.ts';
import { vmHost } from '../sandbox/vm/host.ts';
import { seccompInfo } from '../native/seccomp.ts';
import { features } from '../runtime/features.ts';
import { StateStore } from '../state/index.ts';
import { bindTaskService } from './bind.ts';
import type { TaskPeer } from './bind.ts';
import { VERSION } from '../base/version.ts';
import { ParsedAhead } from '../runtime/bundle.ts';
import { loadConfig } from './config.ts';
import { rehearse } from './rehearsal.ts';
import { EngineServer } from './server.ts';
import { eventSinks } from './events.ts';
import { grpcAcceptor } from './grpc.ts';
import { kataSupport } from './kata.ts';

const LISTEN_FD = 3;

async function main(): Promise<void> {
  const config = await loadConfig(process.env);
  const log = createLogger((line) => process.stderr.write(line), config.logLevel, 'text', {
    runtime: 'bulkhead',
  });
  process.on('uncaughtException', (error) =>
    log.error('uncaught exception', { error: error.stack ?? error.message }),
  );
  process.on('unhandledRejection', (error) =>
    log.error('unhandled rejection', { error: String((error as Error)?.stack ?? error) }),
  );
  process.on('SIGPIPE', () => {});

  const store = new StateStore(config.root);
  const backends = new BackendRegistry();
  const host = backendHost((id, message) => log.warning(message, { id }));
  const initPath = join(import.meta.dirname, 'bulkhead-init');
  const passing = hostPassing({ root: config.root, initPath, store, log });
  // What a crash has left bound goes back, beside everything else: a create that wants a device waits for it.
  void passing.recover();
  backends.register(new NamespaceBackend(host, passing));
  backends.register(
    new SentryBackend(host, sentryHost(join(import.meta.dirname, 'bulkhead-sentry'), config.root)),
  );
  const agent = await kataSupport(config.vm.agent);
  const vm = new VmBackend(host, vmHost(config.vm, config.root, log, agent), passing);
  backends.register(vm);
  const { cdiSpecDirs } = config;
  const parsedAhead = new ParsedAhead();
  const readDevices = deviceReader(initPath);
  const ctx = {
    store,
    backends,
    log,
    now: Date.now,
    cdiSpecDirs,
    savesLater: true,
    parsedAhead,
    readDevices,
  };
  const router = new Router<TaskPeer>();
  bindTaskService(router);
  const sinks = eventSinks(
    (address, namespace) => new EventPublisher({ address, namespace, log, connect: connectTtrpc }),
  );

  // A launcher that sees it need not ask what address to print (native/shim/shortcuts.h); whoever starts an engine
  // removes it.
  const ttrpcSign = join(config.root, 'engine.ttrpc');
  const server = new EngineServer({
    session: { ctx, router, acceptGrpc: grpcAcceptor(router), eventsFor: sinks, log },
    shim: { ctx, protocol: config.protocol, version: VERSION, features: () => features(seccompInfo()) },
    runInGuest: (pod, executor, process) => vm.runInGuest(pod, executor, process),
    log,
    idleTimeoutMs: config.idleTimeoutMs,
    abandonedMs: config.abandonedMs,
    onIdle: () => {
      rmSync(join(config.root, 'engine.sock'), { force: true });
      rmSync(ttrpcSign, { force: true });
      process.exit(0);
    },
  });
  await server.listen(isSocket(LISTEN_FD) ? { fd: LISTEN_FD } : { path: join(config.root, 'engine.sock') });
  if (config.protocol === 'ttrpc') writeFileSync(ttrpcSign, '', { mode: 0o600 });
  log.info('engine ready', { pid: process.pid, root: config.root, version: VERSION });
  rehearse({ router, root: join(config.root, 'rehearsal'), quietMs: () => server.quietMs() }).catch(
    (error: unknown) => log.warning('rehearsal ended', { error: String(error) }),
  );
}

function isSocket(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`bulkhead-engine: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
