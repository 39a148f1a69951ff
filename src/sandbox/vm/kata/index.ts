/** Loaded only where guests have Kata's agent (vm.agent = "kata"). */
import type { AgentInput, PodAgent } from '../pod_agent.ts';
import { KataAgent } from './agent.ts';
import type { OpenRpc } from './rpc.ts';

/** @param open makes a ttrpc client of a connection */
export function kataAgents(open: OpenRpc): (input: AgentInput) => PodAgent {
  return (input) => new KataAgent(input, open);
}
