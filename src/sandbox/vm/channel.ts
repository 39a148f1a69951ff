/** How the agents of guests are reached: over a port of the machine, or by vsock. */
import { randomInt } from 'node:crypto';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { VmConfig } from './config.ts';
import { VHOST_VSOCK } from './hypervisor/agent_socket.ts';

/** On the kernel's command line, from which it comes into the environment of our agent. */
export const VSOCK_ARGUMENT = 'bulkhead_channel=vsock';

/**
 * The port, unless vsock is asked for: it is there everywhere, nobody else on the host can connect to it, and nothing in the
 * guest can reach the host beside it. Kata's agent listens on vsock by itself, and needs a relay in its image for the port.
 *
 * @param hasVsock there is a /dev/vhost-vsock
 * @throws RuntimeError FailedPrecondition when what is configured is not there
 */
export function chooseChannel(
  id: string,
  { channel, agent }: Pick<VmConfig, 'channel' | 'agent'>,
  hasVsock: boolean,
): 'serial' | 'vsock' {
  if (channel === 'auto') return agent === 'kata' && hasVsock ? 'vsock' : 'serial';
  if (channel === 'serial' || hasVsock) return channel;
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: VHOST_VSOCK,
    reason: 'no such device',
    remedy: 'load it with `modprobe vhost_vsock`, or configure vm.channel = "serial"',
  });
}

/** One of so many that no two machines ever have the same; QEMU refuses one that is taken. Below 3 they have meanings. */
export function newCid(): number {
  return randomInt(2 ** 16, 2 ** 31);
}
