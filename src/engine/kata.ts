/** Kata's agent for the vm wall: its protocol over our ttrpc client. */
import { streamTransport, TtrpcClient } from '../rpc/index.ts';
import type { AgentInput, PodAgent } from '../sandbox/vm/pod_agent.ts';

/** Undefined: guests have our own agent. */
export async function kataSupport(
  agent: 'bulkhead' | 'kata',
): Promise<((input: AgentInput) => PodAgent) | undefined> {
  if (agent !== 'kata') return undefined;
  const { kataAgents } = await import('../sandbox/vm/kata/index.ts');
  return kataAgents((stream) => new TtrpcClient(streamTransport(stream)));
}
